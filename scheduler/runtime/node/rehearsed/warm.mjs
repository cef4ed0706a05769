// The handlers of the rehearsal: one of each kind of module.
export const handler = async (event) => event;

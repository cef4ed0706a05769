// Gives the event back.
export const handler = async (event) => event;

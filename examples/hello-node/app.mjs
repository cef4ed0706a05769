// Called with an event, answers what JSON can say.
export const handler = async (event, context) => {
  const name = event.name ?? 'world';
  console.log(`greeting ${name}`);
  return { message: `hello, ${name}`, request: context.awsRequestId };
};

// A handler that answers at once, and one that streams what it answers while it makes it.

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

export const handler = async (event, context) => {
  console.log('request', context.awsRequestId);
  return {
    greeting: `Hello, ${event.name ?? 'world'}!`,
    node: process.version,
    remainingMs: context.getRemainingTimeInMillis(),
  };
};

export const streaming = awslambda.streamifyResponse(async (event, response) => {
  response.setContentType('text/plain');
  for (const word of ['Hello,', ' ', event.name ?? 'world', '!']) {
    response.write(word);
    await pause(event.pauseMs ?? 0);
  }
  response.end();
});

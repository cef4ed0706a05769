// What a handler gets as its second argument.
'use strict';

const { RuntimeError } = require('./failures.cjs');

// What stays the same for all calls.
function constants() {
  const env = process.env;
  return {
    functionVersion: env.AWS_LAMBDA_FUNCTION_VERSION,
    functionName: env.AWS_LAMBDA_FUNCTION_NAME,
    memoryLimitInMB: env.AWS_LAMBDA_FUNCTION_MEMORY_SIZE,
    logGroupName: env.AWS_LAMBDA_LOG_GROUP_NAME,
    logStreamName: env.AWS_LAMBDA_LOG_STREAM_NAME,
  };
}

function parse(text, what) {
  if (!text) {
    return undefined;
  }
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new RuntimeError('Runtime.LambdaContextUnmarshalError', `Unable to parse ${what} JSON: ${error.message}`);
  }
}

// call: what client.next() gave. state: { waits }, for callbackWaitsForEmptyEventLoop. finish: done, fail and succeed.
function make(fixed, call, state, finish) {
  const deadlineMs = call.deadlineMs;
  return {
    get callbackWaitsForEmptyEventLoop() {
      return state.waits;
    },
    set callbackWaitsForEmptyEventLoop(value) {
      state.waits = value;
    },
    succeed: finish.succeed,
    fail: finish.fail,
    done: finish.done,
    ...fixed,
    clientContext: parse(call.clientContext, 'client context'),
    identity: parse(call.identity, 'Cognito identity'),
    invokedFunctionArn: call.arn,
    awsRequestId: call.id,
    tenantId: call.tenant,
    getRemainingTimeInMillis: () => deadlineMs - Date.now(),
  };
}

module.exports = { constants, make };

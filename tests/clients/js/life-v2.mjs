// The whole life of a function through version 2 of AWS's SDK for JavaScript, which shares no code with version 3: neither what signs nor
// what reads and writes. Called as life.mjs is, and says the same.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import AWS from "aws-sdk";

const [endpoint, name, zip] = process.argv.slice(2);
// Longer than anything takes on an emulated machine that is busy with other tests.
const patience = 300;
const lambda = new AWS.Lambda({
    endpoint,
    region: "us-east-1",
    accessKeyId: "test",
    secretAccessKey: "test",
    maxRetries: 0,
    httpOptions: { timeout: patience * 1000 },
});
const send = (operation, input) => lambda[operation]({ FunctionName: name, ...input }).promise();
const wait = (waiter) =>
    lambda.waitFor(waiter, { FunctionName: name, $waiter: { delay: 1, maxAttempts: patience } }).promise();
const fails = (call, code, statusCode) => assert.rejects(call, { code, statusCode });
const creation = {
    Runtime: "python3.13",
    Role: "arn:aws:iam::000000000000:role/lambda-role",
    Handler: "app.handler",
    Code: { ZipFile: readFileSync(zip) },
    MemorySize: 192,
    Timeout: 120,
    Environment: { Variables: { VARIABLE: "from JavaScript" } },
};

async function step(what, body) {
    await body();
    console.log(what);
}

let arn;

await step("create", async () => {
    arn = (await send("createFunction", creation)).FunctionArn;
    assert.equal((await wait("functionActiveV2")).Configuration.State, "Active");
    await fails(send("createFunction", creation), "ResourceConflictException", 409);
});

await step("invoke", async () => {
    const answer = await send("invoke", { Payload: '{"a":1}', LogType: "Tail" });
    const body = JSON.parse(answer.Payload);
    assert.deepEqual([body.event, body.variable, answer.ExecutedVersion], [{ a: 1 }, "from JavaScript", "$LATEST"]);
    assert.match(Buffer.from(answer.LogResult, "base64").toString(), new RegExp(`hello from ${name}`));
    const failed = await send("invoke", { Payload: '{"raise":"x"}' });
    assert.deepEqual([failed.FunctionError, JSON.parse(failed.Payload).errorType], ["Unhandled", "KeyError"]);
    assert.equal((await send("invoke", { InvocationType: "DryRun" })).StatusCode, 204);
    assert.equal((await send("invoke", { InvocationType: "Event", Payload: "{}" })).StatusCode, 202);
});

await step("stream", async () => {
    const answer = await send("invokeWithResponseStream", { Payload: '{"s":1}' });
    let text = "";
    let completions = 0;
    for await (const event of answer.EventStream) {
        if (event.PayloadChunk) text += event.PayloadChunk.Payload.toString();
        if (event.InvokeComplete) completions += 1;
    }
    assert.deepEqual([JSON.parse(text).event, completions], [{ s: 1 }, 1]);
});

await step("publish", async () => {
    assert.equal((await send("publishVersion")).Version, "1");
    await send("createAlias", { Name: "live", FunctionVersion: "1" });
    assert.equal((await send("invoke", { Qualifier: "live", Payload: "{}" })).ExecutedVersion, "1");
    const versions = [];
    for (let page = await send("listVersionsByFunction", { MaxItems: 1 }); ; ) {
        versions.push(...page.Versions.map((version) => version.Version));
        if (!page.NextMarker) break;
        page = await send("listVersionsByFunction", { MaxItems: 1, Marker: page.NextMarker });
    }
    assert.deepEqual(versions, ["$LATEST", "1"]);
});

await step("change", async () => {
    const stale = { Description: "stale", RevisionId: "00000000-0000-0000-0000-000000000000" };
    await fails(send("updateFunctionConfiguration", stale), "PreconditionFailedException", 412);
    await send("updateFunctionConfiguration", { Description: "changed" });
    assert.equal((await wait("functionUpdatedV2")).Configuration.LastUpdateStatus, "Successful");
    await lambda.tagResource({ Resource: arn, Tags: { team: "JavaScript" } }).promise();
    assert.deepEqual((await lambda.listTags({ Resource: arn }).promise()).Tags, { team: "JavaScript" });
    assert.equal((await send("getFunction")).Configuration.Description, "changed");
});

await step("delete", async () => {
    await send("deleteFunction");
    await fails(send("getFunction"), "ResourceNotFoundException", 404);
});

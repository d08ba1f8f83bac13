// The whole life of a function through AWS's SDK for JavaScript:
//
//   node life.mjs ENDPOINT NAME ZIP     ZIP is of tests/functions/hello
//
// Each step's name is a line on standard output when it is done; the first one that fails ends the program.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import {
    CreateAliasCommand, CreateFunctionCommand, DeleteFunctionCommand, GetFunctionCommand, InvokeCommand,
    InvokeWithResponseStreamCommand, LambdaClient, ListTagsCommand, PreconditionFailedException, PublishVersionCommand,
    ResourceConflictException, ResourceNotFoundException, TagResourceCommand, UpdateFunctionConfigurationCommand,
    paginateListVersionsByFunction, waitUntilFunctionActiveV2, waitUntilFunctionUpdatedV2,
} from "@aws-sdk/client-lambda";

const [endpoint, name, zip] = process.argv.slice(2);
// Longer than anything takes on an emulated machine that is busy with other tests.
const patience = 300;
const client = new LambdaClient({
    endpoint,
    region: "us-east-1",
    credentials: { accessKeyId: "test", secretAccessKey: "test" },
    maxAttempts: 1,
    requestHandler: { requestTimeout: patience * 1000 },
});
const waiting = { client, maxWaitTime: patience, minDelay: 1, maxDelay: 2 };
const send = (Command, input) => client.send(new Command({ FunctionName: name, ...input }));
const json = (bytes) => JSON.parse(Buffer.from(bytes).toString());
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
    const created = await send(CreateFunctionCommand, creation);
    assert.equal(created.$metadata.httpStatusCode, 201);
    arn = created.FunctionArn;
    assert.equal((await waitUntilFunctionActiveV2(waiting, { FunctionName: name })).state, "SUCCESS");
    await assert.rejects(send(CreateFunctionCommand, creation), ResourceConflictException);
});

await step("invoke", async () => {
    const answer = await send(InvokeCommand, { Payload: '{"a":1}', LogType: "Tail" });
    const body = json(answer.Payload);
    assert.deepEqual([body.event, body.variable, answer.ExecutedVersion], [{ a: 1 }, "from JavaScript", "$LATEST"]);
    assert.match(Buffer.from(answer.LogResult, "base64").toString(), new RegExp(`hello from ${name}`));
    const failed = await send(InvokeCommand, { Payload: '{"raise":"x"}' });
    assert.deepEqual([failed.FunctionError, json(failed.Payload).errorType], ["Unhandled", "KeyError"]);
    assert.equal((await send(InvokeCommand, { InvocationType: "DryRun" })).StatusCode, 204);
    assert.equal((await send(InvokeCommand, { InvocationType: "Event", Payload: "{}" })).StatusCode, 202);
    const context = Buffer.from('{"custom":{"a":"b"}}').toString("base64");
    assert.deepEqual(json((await send(InvokeCommand, { ClientContext: context })).Payload).custom, { a: "b" });
});

await step("stream", async () => {
    const answer = await send(InvokeWithResponseStreamCommand, { Payload: '{"s":1}' });
    let text = "";
    let completions = 0;
    for await (const event of answer.EventStream) {
        if (event.PayloadChunk) text += Buffer.from(event.PayloadChunk.Payload).toString();
        if (event.InvokeComplete) completions += 1;
    }
    assert.deepEqual([JSON.parse(text).event, completions], [{ s: 1 }, 1]);
});

await step("publish", async () => {
    assert.equal((await send(PublishVersionCommand)).Version, "1");
    await send(CreateAliasCommand, { Name: "live", FunctionVersion: "1" });
    assert.equal((await send(InvokeCommand, { Qualifier: "live", Payload: "{}" })).ExecutedVersion, "1");
    const versions = [];
    const pages = paginateListVersionsByFunction({ client, pageSize: 1 }, { FunctionName: name });
    for await (const page of pages) versions.push(...page.Versions.map((version) => version.Version));
    assert.deepEqual(versions, ["$LATEST", "1"]);
});

await step("change", async () => {
    const stale = { Description: "stale", RevisionId: "00000000-0000-0000-0000-000000000000" };
    await assert.rejects(send(UpdateFunctionConfigurationCommand, stale), PreconditionFailedException);
    await send(UpdateFunctionConfigurationCommand, { Description: "changed" });
    assert.equal((await waitUntilFunctionUpdatedV2(waiting, { FunctionName: name })).state, "SUCCESS");
    await client.send(new TagResourceCommand({ Resource: arn, Tags: { team: "JavaScript" } }));
    assert.deepEqual((await client.send(new ListTagsCommand({ Resource: arn }))).Tags, { team: "JavaScript" });
    assert.equal((await send(GetFunctionCommand)).Configuration.Description, "changed");
});

await step("delete", async () => {
    await send(DeleteFunctionCommand);
    await assert.rejects(send(GetFunctionCommand), ResourceNotFoundException);
});

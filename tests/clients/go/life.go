package main

import (
	"encoding/base64"
	"encoding/json"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/lambda/types"
)

// answered is what tests/functions/hello answers, as far as it is asked for here.
type answered struct {
	Event     map[string]int
	Variable  string
	Custom    map[string]string
	ErrorType string
}

func parsed(payload []byte) answered {
	var body answered
	if err := json.Unmarshal(payload, &body); err != nil {
		panic(err)
	}
	return body
}

// live goes through the whole life of a function.
func live(client *lambda.Client, name string, zip []byte) {
	function := aws.String(name)
	var arn *string
	creation := lambda.CreateFunctionInput{
		FunctionName: function,
		Runtime:      runtime,
		Role:         aws.String(role),
		Handler:      aws.String("app.handler"),
		Code:         &types.FunctionCode{ZipFile: zip},
		MemorySize:   aws.Int32(192),
		Timeout:      aws.Int32(120),
		Environment:  &types.Environment{Variables: map[string]string{"VARIABLE": "from Go"}},
	}
	step("create", func() {
		arn = must(client.CreateFunction(background, &creation)).FunctionArn
		waiter := lambda.NewFunctionActiveV2Waiter(client, func(options *lambda.FunctionActiveV2WaiterOptions) {
			options.MinDelay, options.MaxDelay = between, between
		})
		if err := waiter.Wait(background, &lambda.GetFunctionInput{FunctionName: function}, patience); err != nil {
			panic(err)
		}
		_, err := client.CreateFunction(background, &creation)
		refused[*types.ResourceConflictException]("a second one of this name", err)
	})
	step("invoke", func() { invoke(client, name) })
	step("stream", func() { stream(client, name) })
	step("publish", func() { publish(client, name) })
	step("change", func() { change(client, name, arn) })
	step("delete", func() {
		must(client.DeleteFunction(background, &lambda.DeleteFunctionInput{FunctionName: function}))
		_, err := client.GetFunction(background, &lambda.GetFunctionInput{FunctionName: function})
		gone := refused[*types.ResourceNotFoundException]("a deleted one", err)
		equal("whose name the message has", strings.Contains(gone.ErrorMessage(), name), true)
	})
}

func invoke(client *lambda.Client, name string) {
	call := func(input lambda.InvokeInput) *lambda.InvokeOutput {
		input.FunctionName = aws.String(name)
		return must(client.Invoke(background, &input))
	}
	answer := call(lambda.InvokeInput{Payload: []byte(`{"a":1}`), LogType: types.LogTypeTail})
	body := parsed(answer.Payload)
	equal("the event", body.Event, map[string]int{"a": 1})
	equal("the variable", body.Variable, "from Go")
	equal("the version", aws.ToString(answer.ExecutedVersion), "$LATEST")
	log := string(must(base64.StdEncoding.DecodeString(aws.ToString(answer.LogResult))))
	equal("the log has what was printed", strings.Contains(log, "hello from "+name), true)
	failed := call(lambda.InvokeInput{Payload: []byte(`{"raise":"x"}`)})
	equal("a failure", aws.ToString(failed.FunctionError), "Unhandled")
	equal("its type", parsed(failed.Payload).ErrorType, "KeyError")
	equal("a dry run", call(lambda.InvokeInput{InvocationType: types.InvocationTypeDryRun}).StatusCode, 204)
	event := call(lambda.InvokeInput{InvocationType: types.InvocationTypeEvent, Payload: []byte("{}")})
	equal("an event", event.StatusCode, 202)
	context := base64.StdEncoding.EncodeToString([]byte(`{"custom":{"a":"b"}}`))
	told := call(lambda.InvokeInput{ClientContext: aws.String(context)})
	equal("the client's context", parsed(told.Payload).Custom, map[string]string{"a": "b"})
}

func stream(client *lambda.Client, name string) {
	input := lambda.InvokeWithResponseStreamInput{FunctionName: aws.String(name), Payload: []byte(`{"s":1}`)}
	events := must(client.InvokeWithResponseStream(background, &input)).GetStream()
	defer events.Close()
	var payload []byte
	completions := 0
	for event := range events.Events() {
		switch event := event.(type) {
		case *types.InvokeWithResponseStreamResponseEventMemberPayloadChunk:
			payload = append(payload, event.Value.Payload...)
		case *types.InvokeWithResponseStreamResponseEventMemberInvokeComplete:
			equal("the end's error", event.Value.ErrorCode, nil)
			completions++
		}
	}
	equal("the stream's error", events.Err(), nil)
	equal("the streamed event", parsed(payload).Event, map[string]int{"s": 1})
	equal("ends", completions, 1)
}

func publish(client *lambda.Client, name string) {
	function := aws.String(name)
	published := must(client.PublishVersion(background, &lambda.PublishVersionInput{FunctionName: function}))
	equal("the version", aws.ToString(published.Version), "1")
	must(client.CreateAlias(background, &lambda.CreateAliasInput{
		FunctionName: function, Name: aws.String("live"), FunctionVersion: published.Version,
	}))
	waiter := lambda.NewPublishedVersionActiveWaiter(client)
	asked := lambda.GetFunctionConfigurationInput{FunctionName: function, Qualifier: aws.String("live")}
	if err := waiter.Wait(background, &asked, patience); err != nil {
		panic(err)
	}
	called := lambda.InvokeInput{FunctionName: function, Qualifier: aws.String("live"), Payload: []byte("{}")}
	equal("the alias's version", aws.ToString(must(client.Invoke(background, &called)).ExecutedVersion), "1")
	var versions []string
	listed := lambda.ListVersionsByFunctionInput{FunctionName: function, MaxItems: aws.Int32(1)}
	for pages := lambda.NewListVersionsByFunctionPaginator(client, &listed); pages.HasMorePages(); {
		for _, version := range must(pages.NextPage(background)).Versions {
			versions = append(versions, aws.ToString(version.Version))
		}
	}
	equal("the versions", versions, []string{"$LATEST", "1"})
}

func change(client *lambda.Client, name string, arn *string) {
	function := aws.String(name)
	update := lambda.UpdateFunctionConfigurationInput{
		FunctionName: function,
		Description:  aws.String("changed"),
		RevisionId:   aws.String("00000000-0000-0000-0000-000000000000"),
	}
	_, err := client.UpdateFunctionConfiguration(background, &update)
	refused[*types.PreconditionFailedException]("a stale revision", err)
	update.RevisionId = nil
	must(client.UpdateFunctionConfiguration(background, &update))
	waiter := lambda.NewFunctionUpdatedV2Waiter(client, func(options *lambda.FunctionUpdatedV2WaiterOptions) {
		options.MinDelay, options.MaxDelay = between, between
	})
	if err := waiter.Wait(background, &lambda.GetFunctionInput{FunctionName: function}, patience); err != nil {
		panic(err)
	}
	tags := map[string]string{"team": "Go"}
	must(client.TagResource(background, &lambda.TagResourceInput{Resource: arn, Tags: tags}))
	equal("the tags", must(client.ListTags(background, &lambda.ListTagsInput{Resource: arn})).Tags, tags)
	read := must(client.GetFunction(background, &lambda.GetFunctionInput{FunctionName: function}))
	equal("the description", aws.ToString(read.Configuration.Description), "changed")
}

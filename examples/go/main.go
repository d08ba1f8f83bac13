// A function in Go for provided.al2023, with nothing but the standard library: it asks the Runtime API for an event, handles it, and
// answers, for as long as its sandbox lives.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"
)

type event struct {
	Name string `json:"name"`
	// Fail is what the call fails with, for those who want to see that.
	Fail string `json:"fail"`
}

type answer struct {
	Greeting    string `json:"greeting"`
	Go          string `json:"go"`
	RequestID   string `json:"request_id"`
	Calls       int    `json:"calls"`
	RemainingMs int64  `json:"remaining_ms"`
}

// calls is how many events this process has had: more than one while the sandbox is warm.
var calls int

func handle(ctx context.Context, requestID string, asked event) (*answer, error) {
	calls++
	fmt.Println("hello from Go")
	if asked.Fail != "" {
		return nil, errors.New(asked.Fail)
	}
	if asked.Name == "" {
		asked.Name = "world"
	}
	deadline, _ := ctx.Deadline()
	return &answer{
		Greeting:    "Hello, " + asked.Name + "!",
		Go:          runtime.Version(),
		RequestID:   requestID,
		Calls:       calls,
		RemainingMs: time.Until(deadline).Milliseconds(),
	}, nil
}

func main() {
	api := "http://" + os.Getenv("AWS_LAMBDA_RUNTIME_API") + "/2018-06-01/runtime/invocation/"
	for {
		if err := serve(api); err != nil {
			log.Fatal(err)
		}
	}
}

// serve handles one event. Its error is of the Runtime API, and ends the process; the function's own are answers.
func serve(api string) error {
	// No timeout: the next event may be hours away, and the sandbox is frozen until then.
	next, err := http.Get(api + "next")
	if err != nil {
		return err
	}
	defer next.Body.Close()
	body, err := io.ReadAll(next.Body)
	if err != nil {
		return err
	}
	requestID := next.Header.Get("Lambda-Runtime-Aws-Request-Id")
	deadlineMs, err := strconv.ParseInt(next.Header.Get("Lambda-Runtime-Deadline-Ms"), 10, 64)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithDeadline(context.Background(), time.UnixMilli(deadlineMs))
	defer cancel()
	var asked event
	if err := json.Unmarshal(body, &asked); err != nil {
		return report(api+requestID+"/error", err)
	}
	made, err := handle(ctx, requestID, asked)
	if err != nil {
		return report(api+requestID+"/error", err)
	}
	return post(api+requestID+"/response", "", made)
}

func report(url string, failed error) error {
	kind := fmt.Sprintf("%T", failed)
	kind = kind[strings.LastIndexByte(kind, '.')+1:]
	return post(url, kind, map[string]string{"errorType": kind, "errorMessage": failed.Error()})
}

func post(url, errorType string, document any) error {
	body, err := json.Marshal(document)
	if err != nil {
		return err
	}
	request, err := http.NewRequest(http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	if errorType != "" {
		request.Header.Set("Lambda-Runtime-Function-Error-Type", errorType)
	}
	accepted, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer accepted.Body.Close()
	if accepted.StatusCode != http.StatusAccepted {
		return fmt.Errorf("%s: %s", url, accepted.Status)
	}
	_, err = io.Copy(io.Discard, accepted.Body)
	return err
}

// AWS's SDK for Go (version 2) against a node:
//
//	go-client life ENDPOINT NAME ZIP             the whole life of a function; ZIP is of tests/functions/hello
//	go-client terraform ENDPOINT NAME ZIP KIND   the calls of Terraform's AWS provider, which is made of this SDK
//
// Each step's name is a line on standard output when it is done; the first one that fails ends the program. Built in GOPATH mode from
// what Debian packages, by `cargo xtask test`.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"reflect"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/lambda/types"
)

const (
	region = "us-east-1"
	role   = "arn:aws:iam::000000000000:role/lambda-role"
	// runtime is newer than what this SDK has a name for.
	runtime = types.Runtime("python3.13")
	// patience is longer than anything takes on an emulated machine that is busy with other tests.
	patience = 5 * time.Minute
	// between is how long a waiter waits between two looks.
	between = time.Second
)

var background = context.Background()

func keys() aws.CredentialsProvider {
	return credentials.NewStaticCredentialsProvider("test", "test", "")
}

func clientOf(endpoint string) *lambda.Client {
	return lambda.NewFromConfig(aws.Config{
		Region:       region,
		Credentials:  keys(),
		BaseEndpoint: aws.String(endpoint),
		// A failed call shall be seen, and not tried again until it is none.
		Retryer: func() aws.Retryer { return aws.NopRetryer{} },
	})
}

func main() {
	if len(os.Args) < 5 {
		fail("usage: go-client life|terraform ENDPOINT NAME ZIP [KIND]")
	}
	what, endpoint, name := os.Args[1], os.Args[2], os.Args[3]
	zip := must(os.ReadFile(os.Args[4]))
	switch what {
	case "life":
		live(clientOf(endpoint), name, zip)
	case "terraform":
		apply(endpoint, name, zip, len(os.Args) > 5 && os.Args[5] == "with-sandboxes")
	default:
		fail("nobody knows " + what)
	}
}

// step does something and says so.
func step(what string, body func()) {
	body()
	fmt.Println(what)
}

func fail(why string) {
	fmt.Fprintln(os.Stderr, why)
	os.Exit(1)
}

// must is for calls that have to succeed.
func must[T any](answer T, err error) T {
	if err != nil {
		panic(err)
	}
	return answer
}

// equal wants two values to be the same, and names what they are of.
func equal[T any](what string, is, expected T) {
	if !reflect.DeepEqual(is, expected) {
		panic(fmt.Sprintf("%s: %#v, and not %#v", what, is, expected))
	}
}

// refused wants an error of this type, and returns it.
func refused[E error](what string, err error) E {
	var expected E
	if !errors.As(err, &expected) {
		panic(fmt.Sprintf("%s: %v, and not a %T", what, err, expected))
	}
	return expected
}

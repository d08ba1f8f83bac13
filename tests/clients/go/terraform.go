package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"time"

	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/lambda/types"
)

// provider makes the calls that Terraform's AWS provider makes, with the members that it sets, and wants of their answers what it wants:
// that they are what was configured, so that the next plan is empty. It is a program of its own that none of our registries has; what it
// does was read in its source, resource by resource, of versions 5 and 6.
type provider struct {
	client   *lambda.Client
	endpoint string
	name     string
	zip      []byte
	// withSandboxes: the node can start some; what takes one is left out otherwise.
	withSandboxes bool
	layer         layerVersion
	arn           string
	// refreshed is what `terraform plan` does before it says that nothing is to be done: each resource is read again.
	refreshed []func()
}

// apply goes through the life of a configuration: apply, plan, a change, imports, something deleted behind Terraform's back, destroy.
func apply(endpoint, name string, zip []byte, withSandboxes bool) {
	p := &provider{client: clientOf(endpoint), endpoint: endpoint, name: name, zip: zip, withSandboxes: withSandboxes}
	first := p.firstConfiguration()
	step("layer version", func() { p.createLayerVersion() })
	step("function", func() { p.createFunction(first) })
	step("alias", func() { p.createAlias() })
	step("permissions", func() { p.createPermissions() })
	step("function url", func() { p.createURL() })
	step("event invoke config", func() { p.createEventInvokeConfig() })
	step("provisioned concurrency", func() { p.createProvisionedConcurrency() })
	step("plan", func() {
		for _, read := range p.refreshed {
			read()
		}
	})
	step("update", func() { p.updateFunction(first) })
	step("tags", func() { p.updateTags() })
	step("weights", func() { p.updateAlias() })
	step("url update", func() { p.updateURL() })
	step("snap start", func() { p.snapStart() })
	step("destroy", func() { p.destroy() })
	step("read what is gone", func() { p.readWhatIsGone() })
}

// hashOf is what `filebase64sha256` says of a zip.
func hashOf(zip []byte) string {
	hash := sha256.Sum256(zip)
	return base64.StdEncoding.EncodeToString(hash[:])
}

// until looks until something is so; the provider does by its waiters, with five seconds before the first look.
func until(what string, is func() bool) {
	for end := time.Now().Add(patience); !is(); time.Sleep(between) {
		if time.Now().After(end) {
			panic(what + " takes too long")
		}
	}
}

// isGone is what the provider takes for "not there any more": the resource leaves its state.
func isGone(err error) bool {
	var gone *types.ResourceNotFoundException
	return errors.As(err, &gone)
}

// goneOrDone is what it takes for a success of a deletion.
func goneOrDone(what string, err error) {
	if err != nil && !isGone(err) {
		panic(what + ": " + err.Error())
	}
}

// post sends what this SDK, which is older than the provider's, has no member for.
func (p *provider) post(path string, members map[string]any) {
	body := must(json.Marshal(members))
	request := must(http.NewRequest(http.MethodPost, p.endpoint+path, bytes.NewReader(body)))
	hash := sha256.Sum256(body)
	credentials := must(keys().Retrieve(background))
	hexHash := hex.EncodeToString(hash[:])
	if err := v4.NewSigner().SignHTTP(background, credentials, request, hexHash, "lambda", region, time.Now()); err != nil {
		panic(err)
	}
	answer := must(http.DefaultClient.Do(request))
	defer answer.Body.Close()
	equal("what "+path+" answers: "+string(must(io.ReadAll(answer.Body))), answer.StatusCode, http.StatusCreated)
}

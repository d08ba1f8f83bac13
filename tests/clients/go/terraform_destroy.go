package main

import (
	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/lambda"
)

// destroy deletes in the order in which Terraform does, what depends on something before it. Each is deleted twice, as after a run that was
// interrupted before it was written down.
func (p *provider) destroy() {
	for _, delete := range []func(){
		p.deleteProvisioned,
		p.deleteEventInvokeConfig,
		p.deleteURL,
		func() { p.deletePermission("via-url", "") },
		func() { p.deletePermission("account", "") },
		func() { p.deletePermission("events", alias) },
		func() { p.deletePermission(openURL, alias) },
		p.deleteAlias,
		p.deleteFunction,
		p.deleteLayerVersion,
	} {
		delete()
		delete()
	}
}

func (p *provider) deleteProvisioned() {
	_, err := p.client.DeleteProvisionedConcurrencyConfig(background, &lambda.DeleteProvisionedConcurrencyConfigInput{
		FunctionName: aws.String(p.name), Qualifier: aws.String(provisioned),
	})
	if !isGoneOrUnprovisioned(err) {
		goneOrDone("provisioned concurrency", err)
	}
}

func (p *provider) deleteEventInvokeConfig() {
	_, err := p.client.DeleteFunctionEventInvokeConfig(background, &lambda.DeleteFunctionEventInvokeConfigInput{
		FunctionName: aws.String(p.name), Qualifier: aws.String(alias),
	})
	goneOrDone("event invoke config", err)
}

func (p *provider) deleteURL() {
	_, err := p.client.DeleteFunctionUrlConfig(background, &lambda.DeleteFunctionUrlConfigInput{
		FunctionName: aws.String(p.name), Qualifier: aws.String(alias),
	})
	goneOrDone("function url", err)
}

func (p *provider) deletePermission(sid, qualifier string) {
	input := lambda.RemovePermissionInput{FunctionName: aws.String(p.name), StatementId: aws.String(sid)}
	if qualifier != "" {
		input.Qualifier = aws.String(qualifier)
	}
	_, err := p.client.RemovePermission(background, &input)
	goneOrDone("permission "+sid, err)
	until("the end of "+sid, func() bool { return p.findStatement(sid, qualifier) == nil })
}

func (p *provider) deleteAlias() {
	_, err := p.client.DeleteAlias(background, &lambda.DeleteAliasInput{
		FunctionName: aws.String(p.arn), Name: aws.String(alias),
	})
	goneOrDone("alias", err)
}

func (p *provider) deleteFunction() {
	_, err := p.client.DeleteFunction(background, &lambda.DeleteFunctionInput{FunctionName: aws.String(p.name)})
	goneOrDone("function", err)
	until("deletion", func() bool {
		_, err := p.client.GetFunction(background, &lambda.GetFunctionInput{FunctionName: aws.String(p.name)})
		return isGone(err)
	})
}

// deleteLayerVersion has no error that it takes for a success.
func (p *provider) deleteLayerVersion() {
	must(p.client.DeleteLayerVersion(background, &lambda.DeleteLayerVersionInput{
		LayerName: aws.String(p.layer.name), VersionNumber: aws.Int64(p.layer.version),
	}))
}

// readWhatIsGone is a plan after somebody else deleted everything: each read says so, and by the error that the provider knows.
func (p *provider) readWhatIsGone() {
	function, qualifier := aws.String(p.name), aws.String(alias)
	_, err := p.client.GetFunction(background, &lambda.GetFunctionInput{FunctionName: function})
	equal("the function is gone", isGone(err), true)
	_, err = p.client.GetAlias(background, &lambda.GetAliasInput{FunctionName: aws.String(p.arn), Name: qualifier})
	equal("the alias is gone", isGone(err), true)
	equal("the statement is gone", p.findStatement("events", alias) == nil, true)
	url := lambda.GetFunctionUrlConfigInput{FunctionName: function, Qualifier: qualifier}
	_, err = p.client.GetFunctionUrlConfig(background, &url)
	equal("the url is gone", isGone(err), true)
	config := lambda.GetFunctionEventInvokeConfigInput{FunctionName: function, Qualifier: qualifier}
	_, err = p.client.GetFunctionEventInvokeConfig(background, &config)
	equal("the event invoke config is gone", isGone(err), true)
	_, err = p.getProvisioned()
	equal("the provisioned concurrency is gone", isGoneOrUnprovisioned(err), true)
	_, err = p.client.GetLayerVersion(background, p.layer.named())
	equal("the layer version is gone", isGone(err), true)
}

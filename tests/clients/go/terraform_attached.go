package main

import (
	"archive/zip"
	"bytes"
	"encoding/json"
	"errors"
	"net/url"
	"strconv"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/lambda/types"
)

// alias is the name of the one that things are attached to.
const alias = "live"

// provisioned is the version that has provisioned concurrency, which an alias with weights must not have.
const provisioned = "1"

// openURL is the statement by which the provider opens a URL of AuthType NONE.
const openURL = "FunctionURLAllowPublicAccess"

// zipOf is an archive with one file in it.
func zipOf(name, text string) []byte {
	var archive bytes.Buffer
	writer := zip.NewWriter(&archive)
	must(must(writer.Create(name)).Write([]byte(text)))
	if err := writer.Close(); err != nil {
		panic(err)
	}
	return archive.Bytes()
}

func secondZip() []byte {
	return zipOf("app.py", "def handler(event, context):\n    return 'second'\n")
}

// layerVersion is a resource `aws_lambda_layer_version`.
type layerVersion struct {
	arn     string
	name    string
	version int64
}

func (p *provider) createLayerVersion() {
	content := zipOf("python/greeting.py", "GREETING = 'hello'\n")
	published := must(p.client.PublishLayerVersion(background, &lambda.PublishLayerVersionInput{
		CompatibleRuntimes: []types.Runtime{runtime},
		Content:            &types.LayerVersionContentInput{ZipFile: content},
		Description:        aws.String(""),
		LayerName:          aws.String(p.name),
		LicenseInfo:        aws.String(""),
	}))
	p.layer = layerVersion{arn: aws.ToString(published.LayerVersionArn), name: p.name, version: published.Version}
	read := func() {
		is := must(p.client.GetLayerVersion(background, p.layer.named()))
		equal("the layer's arn", aws.ToString(is.LayerVersionArn), p.layer.arn)
		// An import has the ARN alone, and takes name and number out of it.
		parts := strings.Split(p.layer.arn, ":")
		equal("its form", parts[5:], []string{"layer", p.name, strconv.FormatInt(p.layer.version, 10)})
		equal("layer_arn", aws.ToString(is.LayerArn), strings.Join(parts[:7], ":"))
		equal("code_sha256", aws.ToString(is.Content.CodeSha256), hashOf(content))
		equal("source_code_size", is.Content.CodeSize, int64(len(content)))
		equal("compatible_runtimes", is.CompatibleRuntimes, []types.Runtime{runtime})
		equal("compatible_architectures", len(is.CompatibleArchitectures), 0)
		equal("description", aws.ToString(is.Description), "")
		equal("license_info", aws.ToString(is.LicenseInfo), "")
		equal("created_date", aws.ToString(is.CreatedDate) != "", true)
		equal("signing", is.Content.SigningJobArn == nil && is.Content.SigningProfileVersionArn == nil, true)
		byArn := must(p.client.GetLayerVersionByArn(background, &lambda.GetLayerVersionByArnInput{
			Arn: aws.String(p.layer.arn),
		}))
		equal("the data source's version", byArn.Version, p.layer.version)
	}
	read()
	p.refreshed = append(p.refreshed, read)
}

func (l layerVersion) named() *lambda.GetLayerVersionInput {
	return &lambda.GetLayerVersionInput{LayerName: aws.String(l.name), VersionNumber: aws.Int64(l.version)}
}

// createAlias names the function by its ARN, as `aws_lambda_function.NAME.arn` does.
func (p *provider) createAlias() {
	created := must(p.client.CreateAlias(background, &lambda.CreateAliasInput{
		Description:     aws.String(""),
		FunctionName:    aws.String(p.arn),
		FunctionVersion: aws.String("1"),
		Name:            aws.String(alias),
		RoutingConfig:   &types.AliasRoutingConfiguration{},
	}))
	equal("the alias's arn", aws.ToString(created.AliasArn), p.arn+":"+alias)
	read := func() {
		is := p.getAlias()
		equal("arn", aws.ToString(is.AliasArn), p.arn+":"+alias)
		equal("description", aws.ToString(is.Description), "")
		equal("function_version", aws.ToString(is.FunctionVersion), "1")
		equal("name", aws.ToString(is.Name), alias)
		// An empty one would be a block that nobody configured.
		equal("no routing_config", is.RoutingConfig == nil, true)
	}
	read()
	p.refreshed = append(p.refreshed, read)
}

func (p *provider) getAlias() *lambda.GetAliasOutput {
	return must(p.client.GetAlias(background, &lambda.GetAliasInput{
		FunctionName: aws.String(p.arn), Name: aws.String(alias),
	}))
}

// updateAlias sends a share of the calls elsewhere, and none again: it waits until the weights are gone.
func (p *provider) updateAlias() {
	for _, weights := range []map[string]float64{{"1": 0.25}, nil} {
		must(p.client.UpdateAlias(background, &lambda.UpdateAliasInput{
			Description:     aws.String("moved"),
			FunctionName:    aws.String(p.arn),
			FunctionVersion: aws.String("2"),
			Name:            aws.String(alias),
			RoutingConfig:   &types.AliasRoutingConfiguration{AdditionalVersionWeights: weights},
		}))
		if weights == nil {
			until("weights", func() bool { return p.getAlias().RoutingConfig == nil })
		} else {
			equal("routing_config", p.getAlias().RoutingConfig.AdditionalVersionWeights, weights)
		}
	}
	equal("function_version", aws.ToString(p.getAlias().FunctionVersion), "2")
}

// statement is what the provider parses a policy into: a condition's value that is no string ends its read.
type statement struct {
	Condition map[string]map[string]string
	Action    string
	Resource  string
	Effect    string
	Principal any
	Sid       string
}

// createPermissions: for a service, for an account, and for everybody by a URL; the last is newer than this SDK.
func (p *provider) createPermissions() {
	p.createPermission(lambda.AddPermissionInput{
		Action:        aws.String("lambda:InvokeFunction"),
		FunctionName:  aws.String(p.name),
		Principal:     aws.String("events.amazonaws.com"),
		Qualifier:     aws.String(alias),
		SourceAccount: aws.String("000000000000"),
		SourceArn:     aws.String("arn:aws:events:us-east-1:000000000000:rule/r"),
		StatementId:   aws.String("events"),
	}, map[string]any{"Service": "events.amazonaws.com"}, map[string]map[string]string{
		"StringEquals": {"AWS:SourceAccount": "000000000000"},
		"ArnLike":      {"AWS:SourceArn": "arn:aws:events:us-east-1:000000000000:rule/r"},
	})
	p.createPermission(lambda.AddPermissionInput{
		Action:         aws.String("lambda:InvokeFunction"),
		FunctionName:   aws.String(p.arn),
		Principal:      aws.String("arn:aws:iam::111111111111:root"),
		PrincipalOrgID: aws.String("o-1234567890"),
		StatementId:    aws.String("account"),
	}, map[string]any{"AWS": "arn:aws:iam::111111111111:root"}, map[string]map[string]string{
		"StringEquals": {"aws:PrincipalOrgID": "o-1234567890"},
	})
	p.post("/2015-03-31/functions/"+p.name+"/policy", map[string]any{
		"Action": "lambda:InvokeFunction", "Principal": "*", "StatementId": "via-url", "InvokedViaFunctionUrl": true,
	})
	via := map[string]map[string]string{"Bool": {"lambda:InvokedViaFunctionUrl": "true"}}
	p.readPermission("via-url", "", "*", via)
}

func (p *provider) createPermission(input lambda.AddPermissionInput, principal any, condition map[string]map[string]string) {
	must(p.client.AddPermission(background, &input))
	read := func() {
		p.readPermission(aws.ToString(input.StatementId), aws.ToString(input.Qualifier), principal, condition)
	}
	read()
	p.refreshed = append(p.refreshed, read)
}

func (p *provider) readPermission(sid, qualifier string, principal any, condition map[string]map[string]string) {
	is := p.findStatement(sid, qualifier)
	equal("the statement is there", is != nil, true)
	resource := p.arn
	if qualifier != "" {
		resource += ":" + qualifier
	}
	// Function and qualifier come of this, whatever the request said.
	equal("resource", is.Resource, resource)
	equal("action", is.Action, "lambda:InvokeFunction")
	equal("principal", is.Principal, principal)
	equal("condition", is.Condition, condition)
}

// findStatement is nil when there is no policy, or none of its statements is it.
func (p *provider) findStatement(sid, qualifier string) *statement {
	input := lambda.GetPolicyInput{FunctionName: aws.String(p.name)}
	if qualifier != "" {
		input.Qualifier = aws.String(qualifier)
	}
	read, err := p.client.GetPolicy(background, &input)
	if isGone(err) {
		return nil
	}
	var policy struct{ Statement []statement }
	if err := json.Unmarshal([]byte(aws.ToString(must(read, err).Policy)), &policy); err != nil {
		panic(err)
	}
	for _, has := range policy.Statement {
		if has.Sid == sid {
			return &has
		}
	}
	return nil
}

func (p *provider) createURL() {
	must(p.client.CreateFunctionUrlConfig(background, &lambda.CreateFunctionUrlConfigInput{
		AuthType: types.FunctionUrlAuthTypeNone,
		Cors: &types.Cors{
			AllowCredentials: aws.Bool(true), AllowMethods: []string{"GET"}, AllowOrigins: []string{"https://example.com"},
			MaxAge: aws.Int32(86400),
		},
		FunctionName: aws.String(p.name),
		InvokeMode:   types.InvokeModeBuffered,
		Qualifier:    aws.String(alias),
	}))
	open := lambda.AddPermissionInput{
		Action:              aws.String("lambda:InvokeFunctionUrl"),
		FunctionName:        aws.String(p.name),
		FunctionUrlAuthType: types.FunctionUrlAuthTypeNone,
		Principal:           aws.String("*"),
		Qualifier:           aws.String(alias),
		StatementId:         aws.String(openURL),
	}
	must(p.client.AddPermission(background, &open))
	// A URL that was deleted and is made again finds the statement there, which the provider knows by this message.
	_, err := p.client.AddPermission(background, &open)
	conflict := refused[*types.ResourceConflictException]("a statement that is there", err)
	said := strings.Contains(conflict.ErrorMessage(), "The statement id ("+openURL+") provided already exists")
	equal("how it is refused: "+conflict.ErrorMessage(), said, true)
	read := func() {
		is := p.getURL()
		equal("authorization_type", is.AuthType, types.FunctionUrlAuthTypeNone)
		equal("function_arn", aws.ToString(is.FunctionArn), p.arn+":"+alias)
		equal("invoke_mode", is.InvokeMode, types.InvokeModeBuffered)
		equal("allow_credentials", aws.ToBool(is.Cors.AllowCredentials), true)
		equal("allow_methods", is.Cors.AllowMethods, []string{"GET"})
		equal("allow_origins", is.Cors.AllowOrigins, []string{"https://example.com"})
		equal("max_age", aws.ToInt32(is.Cors.MaxAge), 86400)
		equal("headers", len(is.Cors.AllowHeaders)+len(is.Cors.ExposeHeaders), 0)
		parsed := must(url.Parse(aws.ToString(is.FunctionUrl)))
		equal("url_id", len(strings.Split(parsed.Host, ".")[0]) > 0, true)
	}
	read()
	p.refreshed = append(p.refreshed, read)
}

func (p *provider) getURL() *lambda.GetFunctionUrlConfigOutput {
	return must(p.client.GetFunctionUrlConfig(background, &lambda.GetFunctionUrlConfigInput{
		FunctionName: aws.String(p.name), Qualifier: aws.String(alias),
	}))
}

// updateURL takes away the block `cors`, and changes the rest.
func (p *provider) updateURL() {
	must(p.client.UpdateFunctionUrlConfig(background, &lambda.UpdateFunctionUrlConfigInput{
		AuthType:     types.FunctionUrlAuthTypeAwsIam,
		Cors:         &types.Cors{},
		FunctionName: aws.String(p.name),
		InvokeMode:   types.InvokeModeResponseStream,
		Qualifier:    aws.String(alias),
	}))
	is := p.getURL()
	equal("authorization_type", is.AuthType, types.FunctionUrlAuthTypeAwsIam)
	equal("invoke_mode", is.InvokeMode, types.InvokeModeResponseStream)
	equal("no cors", is.Cors == nil || len(is.Cors.AllowOrigins) == 0, true)
}

func (p *provider) createEventInvokeConfig() {
	queue := "arn:aws:sqs:us-east-1:000000000000:terraform"
	input := lambda.PutFunctionEventInvokeConfigInput{
		DestinationConfig:        &types.DestinationConfig{OnFailure: &types.OnFailure{Destination: aws.String(queue)}},
		FunctionName:             aws.String(p.name),
		MaximumEventAgeInSeconds: aws.Int32(60),
		MaximumRetryAttempts:     aws.Int32(0),
		Qualifier:                aws.String(alias),
	}
	must(p.client.PutFunctionEventInvokeConfig(background, &input))
	read := func() {
		is := must(p.client.GetFunctionEventInvokeConfig(background, &lambda.GetFunctionEventInvokeConfigInput{
			FunctionName: aws.String(p.name), Qualifier: aws.String(alias),
		}))
		equal("maximum_event_age_in_seconds", aws.ToInt32(is.MaximumEventAgeInSeconds), 60)
		equal("maximum_retry_attempts", is.MaximumRetryAttempts, aws.Int32(0))
		equal("on_failure", aws.ToString(is.DestinationConfig.OnFailure.Destination), queue)
		success := is.DestinationConfig.OnSuccess
		equal("no on_success", success == nil || success.Destination == nil, true)
	}
	read()
	p.refreshed = append(p.refreshed, read)
}

func (p *provider) createProvisionedConcurrency() {
	_, err := p.getProvisioned()
	refused[*types.ProvisionedConcurrencyConfigNotFoundException]("none yet", err)
	must(p.client.PutProvisionedConcurrencyConfig(background, &lambda.PutProvisionedConcurrencyConfigInput{
		FunctionName: aws.String(p.name), ProvisionedConcurrentExecutions: aws.Int32(1), Qualifier: aws.String(provisioned),
	}))
	if !p.withSandboxes {
		return
	}
	until("provisioning", func() bool {
		is := must(p.getProvisioned())
		equal("why it fails: "+aws.ToString(is.StatusReason), is.Status != types.ProvisionedConcurrencyStatusEnumFailed, true)
		return is.Status == types.ProvisionedConcurrencyStatusEnumReady
	})
	// What is allocated is what its state has.
	read := func() {
		is := must(p.getProvisioned())
		equal("provisioned_concurrent_executions", aws.ToInt32(is.AllocatedProvisionedConcurrentExecutions), 1)
	}
	read()
	p.refreshed = append(p.refreshed, read)
}

func (p *provider) getProvisioned() (*lambda.GetProvisionedConcurrencyConfigOutput, error) {
	return p.client.GetProvisionedConcurrencyConfig(background, &lambda.GetProvisionedConcurrencyConfigInput{
		FunctionName: aws.String(p.name), Qualifier: aws.String(provisioned),
	})
}

// isGoneOrUnprovisioned: the provider takes either for "not there".
func isGoneOrUnprovisioned(err error) bool {
	var none *types.ProvisionedConcurrencyConfigNotFoundException
	return isGone(err) || errors.As(err, &none)
}

package main

import (
	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/lambda/types"
)

// listVersionsMaxItems is the provider's; the last version of the last page is the latest.
const listVersionsMaxItems = 10000

// configuration is a resource `aws_lambda_function`, as its state has it.
type configuration struct {
	description string
	memory      int32
	timeout     int32
	variables   map[string]string
	layers      []string
	logFormat   types.LogFormat
	deadLetters string
	// reserved is -1 when nothing is.
	reserved int32
	tags     map[string]string
	zip      []byte
	version  string
}

func (p *provider) firstConfiguration() configuration {
	return configuration{
		description: "",
		memory:      192,
		timeout:     120,
		variables:   map[string]string{"VARIABLE": "from Terraform"},
		logFormat:   types.LogFormatText,
		deadLetters: "arn:aws:sqs:us-east-1:000000000000:terraform",
		reserved:    5,
		tags:        map[string]string{"team": "terraform", "old": "yes"},
		zip:         p.zip,
		version:     "1",
	}
}

// createFunction creates with publish = true.
func (p *provider) createFunction(wanted configuration) {
	wanted.layers = []string{p.layer.arn}
	input := lambda.CreateFunctionInput{
		Code:             &types.FunctionCode{ZipFile: wanted.zip},
		DeadLetterConfig: &types.DeadLetterConfig{TargetArn: aws.String(wanted.deadLetters)},
		Description:      aws.String(wanted.description),
		Environment:      &types.Environment{Variables: wanted.variables},
		FunctionName:     aws.String(p.name),
		Handler:          aws.String("app.handler"),
		Layers:           wanted.layers,
		LoggingConfig:    &types.LoggingConfig{LogFormat: wanted.logFormat},
		MemorySize:       aws.Int32(wanted.memory),
		PackageType:      types.PackageTypeZip,
		Publish:          true,
		Role:             aws.String(role),
		Runtime:          runtime,
		Tags:             wanted.tags,
		Timeout:          aws.Int32(wanted.timeout),
		TracingConfig:    &types.TracingConfig{Mode: types.TracingModePassThrough},
	}
	// A conflict, a role that cannot be assumed yet and a throttled network are tried again, by type or message: a node has none of them.
	must(p.client.CreateFunction(background, &input))
	until("creation", func() bool {
		read := p.getFunction()
		equal("what is to become active", read.Configuration.State != types.StateFailed, true)
		return read.Configuration.State == types.StateActive
	})
	must(p.client.PutFunctionConcurrency(background, &lambda.PutFunctionConcurrencyInput{
		FunctionName: aws.String(p.name), ReservedConcurrentExecutions: aws.Int32(wanted.reserved),
	}))
	p.readFunction(wanted)
	p.refreshed = append(p.refreshed, func() { p.readFunction(wanted) })
}

func (p *provider) getFunction() *lambda.GetFunctionOutput {
	read := must(p.client.GetFunction(background, &lambda.GetFunctionInput{FunctionName: aws.String(p.name)}))
	// Without these two it takes the answer for none.
	equal("code and configuration are told", read.Code != nil && read.Configuration != nil, true)
	return read
}

// readFunction is refresh, and import, which knows the name alone.
func (p *provider) readFunction(wanted configuration) {
	read := p.getFunction()
	is := read.Configuration
	p.arn = aws.ToString(is.FunctionArn)
	equal("architectures", is.Architectures, []types.Architecture{types.ArchitectureX8664})
	equal("code_sha256", aws.ToString(is.CodeSha256), hashOf(wanted.zip))
	equal("source_code_size", is.CodeSize, int64(len(wanted.zip)))
	equal("description", aws.ToString(is.Description), wanted.description)
	equal("handler", aws.ToString(is.Handler), "app.handler")
	equal("memory_size", aws.ToInt32(is.MemorySize), wanted.memory)
	equal("package_type", is.PackageType, types.PackageTypeZip)
	equal("role", aws.ToString(is.Role), role)
	equal("runtime", is.Runtime, runtime)
	equal("timeout", aws.ToInt32(is.Timeout), wanted.timeout)
	equal("tags", read.Tags, wanted.tags)
	if len(wanted.variables) > 0 {
		equal("environment", is.Environment.Variables, wanted.variables)
	} else {
		equal("an environment without variables is none", is.Environment == nil, true)
	}
	var layers []string
	for _, layer := range is.Layers {
		layers = append(layers, aws.ToString(layer.Arn))
	}
	equal("layers", layers, wanted.layers)
	if wanted.deadLetters != "" {
		equal("dead_letter_config", aws.ToString(is.DeadLetterConfig.TargetArn), wanted.deadLetters)
	} else {
		equal("no dead_letter_config", is.DeadLetterConfig == nil || is.DeadLetterConfig.TargetArn == nil, true)
	}
	equal("log_format", is.LoggingConfig.LogFormat, wanted.logFormat)
	equal("log_group", aws.ToString(is.LoggingConfig.LogGroup), "/aws/lambda/"+p.name)
	equal("tracing_config", is.TracingConfig.Mode, types.TracingModePassThrough)
	equal("ephemeral_storage", aws.ToInt32(is.EphemeralStorage.Size), 512)
	equal("snap_start", is.SnapStart == nil || is.SnapStart.ApplyOn == types.SnapStartApplyOnNone, true)
	equal("no vpc_config", is.VpcConfig == nil || aws.ToString(is.VpcConfig.VpcId) == "", true)
	// What would be a difference if it were there.
	none := is.KMSKeyArn == nil && is.SigningJobArn == nil && is.ImageConfigResponse == nil && len(is.FileSystemConfigs) == 0
	equal("nothing else", none, true)
	if wanted.reserved >= 0 {
		equal("reserved", aws.ToInt32(read.Concurrency.ReservedConcurrentExecutions), wanted.reserved)
	} else {
		equal("nothing reserved", read.Concurrency == nil, true)
	}
	latest := p.latestVersion()
	equal("version", aws.ToString(latest.Version), wanted.version)
	equal("qualified_arn", aws.ToString(latest.FunctionArn), p.arn+":"+wanted.version)
	// In the regions that have AWS Signer, and for zips.
	signing := must(p.client.GetFunctionCodeSigningConfig(background, &lambda.GetFunctionCodeSigningConfigInput{
		FunctionName: aws.String(p.name),
	}))
	equal("code_signing_config_arn", aws.ToString(signing.CodeSigningConfigArn), "")
}

func (p *provider) latestVersion() types.FunctionConfiguration {
	input := lambda.ListVersionsByFunctionInput{
		FunctionName: aws.String(p.name), MaxItems: aws.Int32(listVersionsMaxItems),
	}
	var latest *types.FunctionConfiguration
	for pages := lambda.NewListVersionsByFunctionPaginator(p.client, &input); pages.HasMorePages(); {
		page := must(pages.NextPage(background))
		if len(page.Versions) > 0 && page.NextMarker == nil {
			latest = &page.Versions[len(page.Versions)-1]
		}
	}
	equal("there is a latest version", latest != nil, true)
	return *latest
}

// updateFunction changes everything that can be, which takes four calls: configuration, code, concurrency, and a version.
func (p *provider) updateFunction(old configuration) {
	changed := old
	changed.description, changed.memory, changed.timeout = "changed", 256, 60
	changed.variables, changed.layers, changed.deadLetters = nil, nil, ""
	changed.logFormat, changed.reserved, changed.version = types.LogFormatJson, -1, "2"
	changed.zip = secondZip()
	must(p.client.UpdateFunctionConfiguration(background, &lambda.UpdateFunctionConfigurationInput{
		DeadLetterConfig: &types.DeadLetterConfig{TargetArn: aws.String("")},
		Description:      aws.String(changed.description),
		Environment:      &types.Environment{Variables: map[string]string{}},
		FunctionName:     aws.String(p.name),
		Layers:           []string{},
		LoggingConfig:    &types.LoggingConfig{LogFormat: changed.logFormat, LogGroup: aws.String("/aws/lambda/" + p.name)},
		MemorySize:       aws.Int32(changed.memory),
		SnapStart:        &types.SnapStart{ApplyOn: types.SnapStartApplyOnNone},
		Timeout:          aws.Int32(changed.timeout),
		TracingConfig:    &types.TracingConfig{Mode: types.TracingModePassThrough},
		VpcConfig: &types.VpcConfig{
			Ipv6AllowedForDualStack: aws.Bool(false), SecurityGroupIds: []string{}, SubnetIds: []string{},
		},
	}))
	p.untilUpdated()
	must(p.client.UpdateFunctionCode(background, &lambda.UpdateFunctionCodeInput{
		Architectures: []types.Architecture{types.ArchitectureX8664}, FunctionName: aws.String(p.name), ZipFile: changed.zip,
	}))
	p.untilUpdated()
	must(p.client.DeleteFunctionConcurrency(background, &lambda.DeleteFunctionConcurrencyInput{
		FunctionName: aws.String(p.name),
	}))
	p.publish()
	p.readFunction(changed)
}

// snapStart adds a block `snap_start`, and publishes a version that has a snapshot: until it has one, LastUpdateStatus is absent.
func (p *provider) snapStart() {
	must(p.client.UpdateFunctionConfiguration(background, &lambda.UpdateFunctionConfigurationInput{
		FunctionName: aws.String(p.name), SnapStart: &types.SnapStart{ApplyOn: types.SnapStartApplyOnPublishedVersions},
	}))
	p.untilUpdated()
	if p.withSandboxes {
		p.publish()
	}
	equal("apply_on", p.getFunction().Configuration.SnapStart.ApplyOn, types.SnapStartApplyOnPublishedVersions)
}

func (p *provider) publish() {
	published := must(p.client.PublishVersion(background, &lambda.PublishVersionInput{FunctionName: aws.String(p.name)}))
	until("publication", func() bool {
		// The version's ARN for a name, and the version beside it.
		status := must(p.client.GetFunctionConfiguration(background, &lambda.GetFunctionConfigurationInput{
			FunctionName: published.FunctionArn, Qualifier: published.Version,
		})).LastUpdateStatus
		equal("a publication that did not fail", status != types.LastUpdateStatusFailed, true)
		return status == types.LastUpdateStatusSuccessful
	})
}

func (p *provider) untilUpdated() {
	until("an update", func() bool {
		status := p.getFunction().Configuration.LastUpdateStatus
		equal("an update that did not fail", status != types.LastUpdateStatusFailed, true)
		return status == types.LastUpdateStatusSuccessful
	})
}

// updateTags takes away and adds, by the ARN; what there is then comes of GetFunction.
func (p *provider) updateTags() {
	must(p.client.UntagResource(background, &lambda.UntagResourceInput{
		Resource: aws.String(p.arn), TagKeys: []string{"old"},
	}))
	must(p.client.TagResource(background, &lambda.TagResourceInput{
		Resource: aws.String(p.arn), Tags: map[string]string{"new": "yes"},
	}))
	equal("tags", p.getFunction().Tags, map[string]string{"team": "terraform", "new": "yes"})
}

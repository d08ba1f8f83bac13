package tinderbox.runtime;

import com.amazonaws.services.lambda.runtime.Client;
import com.amazonaws.services.lambda.runtime.ClientContext;
import com.amazonaws.services.lambda.runtime.CognitoIdentity;
import com.amazonaws.services.lambda.runtime.Context;
import com.amazonaws.services.lambda.runtime.LambdaLogger;
import com.amazonaws.services.lambda.runtime.LambdaRuntime;
import com.fasterxml.jackson.annotation.JsonProperty;
import java.util.Map;

/** What a handler is told beside its event. */
final class InvocationContext implements Context {
    private final Invocation invocation;
    private final ClientContext clientContext;
    private final CognitoIdentity identity;

    InvocationContext(Invocation invocation) {
        this.invocation = invocation;
        clientContext = parse(invocation.clientContext(), CallerContext.class);
        identity = parse(invocation.cognitoIdentity(), CallerIdentity.class);
    }

    private static <T> T parse(String json, Class<T> type) {
        return json == null || json.isEmpty() ? null : Json.OWN.read(json, type);
    }

    @Override
    public String getAwsRequestId() {
        return invocation.requestId();
    }

    @Override
    public String getLogGroupName() {
        return System.getenv("AWS_LAMBDA_LOG_GROUP_NAME");
    }

    @Override
    public String getLogStreamName() {
        return System.getenv("AWS_LAMBDA_LOG_STREAM_NAME");
    }

    @Override
    public String getFunctionName() {
        return System.getenv("AWS_LAMBDA_FUNCTION_NAME");
    }

    @Override
    public String getFunctionVersion() {
        return System.getenv("AWS_LAMBDA_FUNCTION_VERSION");
    }

    @Override
    public String getInvokedFunctionArn() {
        return invocation.functionArn();
    }

    @Override
    public CognitoIdentity getIdentity() {
        return identity;
    }

    @Override
    public ClientContext getClientContext() {
        return clientContext;
    }

    @Override
    public int getRemainingTimeInMillis() {
        return Math.clamp(invocation.deadlineMs() - System.currentTimeMillis(), 0, Integer.MAX_VALUE);
    }

    @Override
    public int getMemoryLimitInMB() {
        return Integer.parseInt(System.getenv("AWS_LAMBDA_FUNCTION_MEMORY_SIZE"));
    }

    @Override
    public LambdaLogger getLogger() {
        return LambdaRuntime.getLogger();
    }

    @Override
    public String getXrayTraceId() {
        return invocation.traceId();
    }

    private record CallerContext(CallerClient client, Map<String, String> custom, Map<String, String> env)
            implements ClientContext {
        @Override
        public Client getClient() {
            return client;
        }

        @Override
        public Map<String, String> getCustom() {
            return custom;
        }

        @Override
        public Map<String, String> getEnvironment() {
            return env;
        }
    }

    private record CallerClient(
            @JsonProperty("app_title") String appTitle,
            @JsonProperty("app_version_name") String appVersionName,
            @JsonProperty("app_version_code") String appVersionCode,
            @JsonProperty("app_package_name") String appPackageName)
            implements Client {
        @Override
        public String getAppTitle() {
            return appTitle;
        }

        @Override
        public String getAppVersionName() {
            return appVersionName;
        }

        @Override
        public String getAppVersionCode() {
            return appVersionCode;
        }

        @Override
        public String getAppPackageName() {
            return appPackageName;
        }
    }

    private record CallerIdentity(
            @JsonProperty("cognitoIdentityId") String identityId,
            @JsonProperty("cognitoIdentityPoolId") String identityPoolId)
            implements CognitoIdentity {
        @Override
        public String getIdentityId() {
            return identityId;
        }

        @Override
        public String getIdentityPoolId() {
            return identityPoolId;
        }
    }
}

package com.amazonaws.services.lambda.runtime;

/** Whom the caller is known as to Cognito. */
public interface CognitoIdentity {
    /** The identity. */
    String getIdentityId();

    /** The pool that it is of. */
    String getIdentityPoolId();
}

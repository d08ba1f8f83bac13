package com.amazonaws.services.lambda.runtime;

/** The application that called, as a mobile SDK describes it. */
public interface Client {
    /** Its title. */
    String getAppTitle();

    /** Its version, as people read it. */
    String getAppVersionName();

    /** Its version, as programs compare it. */
    String getAppVersionCode();

    /** Its package. */
    String getAppPackageName();
}

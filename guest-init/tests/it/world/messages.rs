//! What the agent says to a guest in these tests.

use guest_protocol::{
    CodeLayout, Credentials, HostMessage, InitializationType, LogFormat, Seed, Start, Unique,
};

/// Credentials with this key id.
pub(crate) fn credentials(id: &str) -> Credentials {
    Credentials {
        access_key_id: id.into(),
        secret_access_key: "secret".into(),
        session_token: "session".into(),
        expiration: "2037-12-31T23:59:59Z".into(),
    }
}

/// A clone's identity, with this limit for its restore.
pub(crate) fn unique(restore_timeout_ms: u32) -> HostMessage {
    HostMessage::MakeUnique(Unique {
        entropy: Seed::new([1; guest_protocol::SEED_LEN]),
        wall_clock_unix_ns: 0,
        generation: [7; 16],
        generation_counter: 7,
        instance_id: "i".into(),
        hostname: "h".into(),
        machine_id: [3; 16],
        boot_id: [4; 16],
        credentials: Some(credentials("second")),
        elapsed_us: 5_000,
        hook_timeout_ms: 1_000,
        restore_timeout_ms,
    })
}

/// A function's settings.
pub(super) fn start() -> Start {
    Start {
        function_name: "f".into(),
        account_id: "000000000000".into(),
        function_version: "$LATEST".into(),
        runtime: "python3.13".into(),
        runtime_version: "0123".into(),
        handler: "app.handler".into(),
        memory_mib: 128,
        init_timeout_ms: 20_000,
        timeout_ms: 20_000,
        region: "us-east-1".into(),
        log_group: "/aws/lambda/f".into(),
        log_stream: "s".into(),
        wall_clock_unix_ns: 0,
        entropy: [0; 32],
        environment: vec![],
        platform_environment: vec![],
        credentials: None,
        initialization_type: InitializationType::OnDemand,
        code: CodeLayout::Alone,
        container: None,
        log_format: LogFormat::Text,
    }
}

/// The same for one that is to be snapshotted.
pub(super) fn snap_start() -> Start {
    Start {
        initialization_type: InitializationType::SnapStart,
        credentials: Some(credentials("first")),
        ..start()
    }
}

//! Values that several tests need.

use guest_protocol::{CodeLayout, InitializationType, LogFormat, Start};

/// A function's settings.
pub(crate) fn start() -> Start {
    Start {
        function_name: "f".into(),
        account_id: "000000000000".into(),
        function_version: "$LATEST".into(),
        runtime: "python3.13".into(),
        runtime_version: "0123".into(),
        handler: "app.handler".into(),
        memory_mib: 128,
        init_timeout_ms: 10_000,
        timeout_ms: 3_000,
        region: "us-east-1".into(),
        log_group: "/aws/lambda/f".into(),
        log_stream: "2026/01/01/[$LATEST]0".into(),
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

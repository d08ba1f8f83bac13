//! An external extension as a Rust user writes it: AWS's own `lambda-extension`, which registers, subscribes, listens and waits.
//! It prints what it is told; an invocation lasts until it has heard that the runtime is done with it, which is when such an
//! extension sends what it has gathered. Built static by `cargo xtask test`, put into a layer by `tests/it`.

use std::process;

use lambda_extension::{
    Error, Extension, LambdaEvent, LambdaTelemetry, LambdaTelemetryRecord, LogBuffering, NextEvent,
    SharedService, service_fn,
};
use tokio::sync::watch;

/// Lambda's least.
const BUFFERING: LogBuffering = LogBuffering { timeout_ms: 25, max_bytes: 262_144, max_items: 1_000 };

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let (tell, done) = watch::channel(String::new());
    let heard = move |telemetry: Vec<LambdaTelemetry>| {
        let tell = tell.clone();
        async move {
            telemetry.into_iter().for_each(|event| hear(event.record, &tell));
            Ok::<_, Error>(())
        }
    };
    Extension::new()
        .with_events(&["INVOKE", "SHUTDOWN"])
        .with_events_processor(service_fn(|event| told(event, done.clone())))
        .with_telemetry_types(&["platform", "function"])
        .with_telemetry_buffering(BUFFERING)
        .with_telemetry_processor(SharedService::new(service_fn(heard)))
        .run()
        .await
}

fn hear(record: LambdaTelemetryRecord, done: &watch::Sender<String>) {
    match record {
        LambdaTelemetryRecord::Function(line) => println!("stock hears the function: {line}"),
        LambdaTelemetryRecord::PlatformRuntimeDone { request_id, status, .. } => {
            println!("stock hears platform.runtimeDone {status:?}");
            done.send_replace(request_id);
        }
        LambdaTelemetryRecord::PlatformReport { metrics, .. } => {
            println!("stock hears platform.report of {} MB", metrics.memory_size_mb);
        }
        LambdaTelemetryRecord::PlatformTelemetrySubscription { name, types, .. } => {
            println!("stock hears platform.telemetrySubscription of {name} to {types:?}");
        }
        other => {
            let kind = format!("{other:?}");
            println!("stock hears {}", kind.split([' ', '{']).next().unwrap_or_default());
        }
    }
}

async fn told(event: LambdaEvent, mut done: watch::Receiver<String>) -> Result<(), Error> {
    match event.next {
        NextEvent::Invoke(invoke) => {
            done.wait_for(|done| *done == invoke.request_id).await?;
            println!("stock is done with {}", invoke.request_id);
            Ok(())
        }
        NextEvent::Shutdown(shutdown) => {
            println!("stock is told SHUTDOWN {}", shutdown.shutdown_reason);
            process::exit(0);
        }
    }
}

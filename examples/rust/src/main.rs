//! A function in Rust for `provided.al2023`: AWS's own `lambda_runtime`, one handler, one resource that is told of snapshots
//! (only a version with SnapStart has those).

use std::sync::{Arc, Mutex, PoisonError};

use lambda_runtime::{BoxFuture, Error, LambdaEvent, Runtime, SnapStartResource, service_fn};
use serde_json::{Value, json};

/// Which hooks ran, in their order.
#[derive(Default)]
struct Hooks(Mutex<Vec<&'static str>>);

impl Hooks {
    fn note(&self, hook: &'static str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(hook);
    }

    fn noted(&self) -> Vec<&'static str> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl SnapStartResource for Hooks {
    fn before_snapshot(&self) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async {
            self.note("before");
            Ok(())
        })
    }

    fn after_restore(&self) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async {
            self.note("after");
            Ok(())
        })
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let hooks = Arc::new(Hooks::default());
    let handler = |event| hello(event, &hooks);
    Runtime::new(service_fn(handler)).register_snapstart_resource(hooks.clone()).run().await
}

async fn hello(event: LambdaEvent<Value>, hooks: &Hooks) -> Result<Value, Error> {
    if let Some(message) = event.payload.get("fail").and_then(Value::as_str) {
        return Err(message.into());
    }
    println!("hello from Rust");
    Ok(json!({
        "event": event.payload,
        "function_name": event.context.env_config.function_name,
        "hooks": hooks.noted(),
        "request_id": event.context.request_id,
    }))
}

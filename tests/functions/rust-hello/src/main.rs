//! A function for `provided.al2023` as a Rust user writes it: AWS's own `lambda_runtime`, one handler. Built static by
//! `cargo xtask test`, deployed by `tests/it`.

use lambda_runtime::{Error, LambdaEvent, service_fn};
use serde_json::{Value, json};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    lambda_runtime::run(service_fn(hello)).await
}

async fn hello(event: LambdaEvent<Value>) -> Result<Value, Error> {
    if let Some(message) = event.payload.get("fail").and_then(Value::as_str) {
        return Err(message.into());
    }
    println!("hello from Rust");
    Ok(json!({
        "event": event.payload,
        "function_name": event.context.env_config.function_name,
        "request_id": event.context.request_id,
        "pid_1": std::fs::read_to_string("/proc/1/comm")?.trim(),
    }))
}

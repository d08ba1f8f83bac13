//! What a noisy neighbour costs: warm invocations of one function while another one takes all that it can of one thing. The victim's
//! memory pays for a processor: it is called without a pause and must not wait for its own quota.

use anyhow::{Context as _, Result, ensure};

use crate::{
    Figure,
    node::{Caller, Function, ONE_CPU_MIB, SETTLE, SMALLEST_MIB, rest},
    plan::Plan,
};

const VICTIM: &str = "victim";
const NOISY: &str = "noisy";
/// As `tests/functions/noisy` calls them.
const KINDS: &[&str] = &["cpu", "memory", "disk", "network", "vsock"];
/// How long a neighbour is noisy: longer than the victim's calls take beside it.
const SECONDS: u32 = 8;
const TIMEOUT_S: u32 = 60;

pub(crate) fn measure(plan: &Plan) -> Result<Vec<Figure>> {
    let caller = Caller::new(plan);
    let function = |name, zip, handler, memory_mib| Function {
        name,
        runtime: &plan.runtime,
        zip,
        handler,
        memory_mib,
        timeout_s: TIMEOUT_S,
    };
    caller.create(&function(VICTIM, &plan.function_zip, &plan.handler, ONE_CPU_MIB))?;
    caller.create(&function(NOISY, &plan.noisy_zip, "app.handler", SMALLEST_MIB))?;
    caller.let_out(NOISY)?;
    // Both are warm from here on.
    caller.answer(VICTIM, "{}")?;
    let mut figures = vec![Figure::new("fair_quiet", "us", calls(plan, &caller)?)];
    for kind in KINDS {
        caller.answer(NOISY, &noise(kind, 0))?;
        rest(SETTLE);
        figures.push(Figure::new(format!("fair_{kind}"), "us", beside(plan, &caller, kind)?));
    }
    [VICTIM, NOISY].into_iter().try_for_each(|name| caller.delete(name))?;
    Ok(figures)
}

/// The victim's calls while its neighbour is noisy.
fn beside(plan: &Plan, caller: &Caller, kind: &str) -> Result<Vec<f64>> {
    std::thread::scope(|scope| {
        let neighbour = scope.spawn(|| Caller::new(plan).answer(NOISY, &noise(kind, SECONDS)));
        rest(SETTLE);
        let samples = calls(plan, caller)?;
        ensure!(!neighbour.is_finished(), "the noise ({kind}) was over before all calls were");
        let ended = neighbour.join().map_err(|_| anyhow::anyhow!("the neighbour's caller panicked"))?;
        ended.with_context(|| format!("the noisy function ({kind})"))?;
        Ok(samples)
    })
}

fn calls(plan: &Plan, caller: &Caller) -> Result<Vec<f64>> {
    (0..plan.warm_invokes).map(|_| Ok(caller.answer(VICTIM, r#"{"key":"value"}"#)?.whole_us)).collect()
}

fn noise(kind: &str, seconds: u32) -> String {
    format!(r#"{{"kind":"{kind}","seconds":{seconds}}}"#)
}

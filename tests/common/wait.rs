//! Waiting for conditions.

use std::time::{Duration, Instant};

/// What only something broken takes: minutes of a slow, busy machine.
pub const LONG: Duration = Duration::from_secs(90);

/// The first answer of `probe` that is `Ok`.
///
/// # Panics
/// When there is none within [`LONG`]; the message tells `what` and why the last probe said no.
pub async fn until<T>(what: &str, probe: impl AsyncFnMut() -> Result<T, String>) -> T {
    until_within(LONG, what, probe).await
}

/// As [`until`], with a bound of its own.
pub async fn until_within<T>(
    limit: Duration,
    what: &str,
    mut probe: impl AsyncFnMut() -> Result<T, String>,
) -> T {
    let began = Instant::now();
    loop {
        match probe().await {
            Ok(value) => return value,
            Err(why) if began.elapsed() > limit => panic!("waited {limit:?} for {what}: {why}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

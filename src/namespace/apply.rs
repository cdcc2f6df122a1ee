//! One command: view + command -> reply + changes.

use super::{Command, Reply, Txn, ViewError};

/// Applies one command. Whatever the command holds, it never panics; an answer about the namespace is inside the reply.
///
/// # Errors
/// When the view cannot be read: the node must stop.
pub fn apply(txn: &mut Txn<'_>, command: &Command) -> Result<Reply, ViewError> {
    let _ = (txn, command);
    Err(ViewError { reason: "apply is not built yet".into() })
}

//! Questions to the namespace.

use super::{View, ViewError};
use crate::types::{Cred, FsError, Query, QueryReply};

/// Answers one question with the rights of `cred`.
///
/// # Errors
/// When the view cannot be read.
pub fn query(view: &dyn View, cred: &Cred, query: &Query) -> Result<Result<QueryReply, FsError>, ViewError> {
    let _ = (view, cred, query);
    Err(ViewError { reason: "query is not built yet".into() })
}

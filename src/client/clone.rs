//! Let a range of a file have the contents of another range, without a copy.
//!
//! For `FICLONERANGE` and `copy_file_range(2)` of a mount. Holds: both files are flushed first, so that the clone is of what was
//! written. Not here: which blocks that are (the namespace knows).

use crate::types::{Attr, CloneRange, Cred, FsError, Update, UpdateReply};

use super::{ClientError, File};

impl File {
    /// Flushes both files, then lets a range of this one have the contents of a range of `from`, which ends within it;
    /// answers the attributes and how many bytes that were. `len` 0 means to the end of `from`. A range of very many
    /// extents is cloned in several updates, from the front on: should one fail, those before it stay done.
    ///
    /// # Errors
    /// As [`File::flush`]; [`FsError::Invalid`] when a file is not open for what is done with it, when the range reaches
    /// behind the end of `from`, and when both ranges are of one file and overlap.
    pub async fn clone_range(
        &self,
        offset: u64,
        from: &Self,
        from_offset: u64,
        len: u64,
    ) -> Result<(Attr, u64), ClientError> {
        let cred = self.cred().clone();
        self.clone_range_as(&cred, offset, from, from_offset, len).await
    }

    /// As [`File::clone_range`], with the rights of `cred`.
    ///
    /// # Errors
    /// As there.
    pub async fn clone_range_as(
        &self,
        cred: &Cred,
        offset: u64,
        from: &Self,
        from_offset: u64,
        len: u64,
    ) -> Result<(Attr, u64), ClientError> {
        if !self.options().write || !from.options().read {
            return Err(FsError::Invalid.into());
        }
        from.flush().await?;
        let mut clone =
            CloneRange { from: from.inode(), from_offset, to: self.inode(), to_offset: offset, len };
        let mut done = 0;
        loop {
            match self.send_as(cred, Update::Clone(clone)).await? {
                UpdateReply::Cloned { attr, len, rest: 0 } => return Ok((attr, done + len)),
                UpdateReply::Cloned { len, rest, .. } if len > 0 => {
                    done += len;
                    clone.from_offset += len;
                    clone.to_offset += len;
                    clone.len = rest;
                }
                other => return Err(ClientError::Protocol(format!("{other:?} to Clone"))),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::OpenOptions;
    use super::super::testing::Fake;
    use crate::types::{CloneRange, Name, ROOT_INODE};

    #[tokio::test]
    async fn a_clone_has_what_both_handles_have_written() {
        let fake = Fake::start(1, 0).await;
        let client = fake.client().await;
        let open = async |text: &str| {
            client.open_at(ROOT_INODE, &Name::new(text).unwrap(), OpenOptions::writing()).await.unwrap().file
        };
        let (a, b) = (open("a").await, open("b").await);
        a.write_at(0, "0123456789".into()).await.unwrap();
        b.write_at(0, "abcdefghij".into()).await.unwrap();
        let (attr, len) = b.clone_range(8, &a, 2, 0).await.unwrap();
        assert_eq!((attr.size, len), (16, 8));
        assert_eq!(b.read_at(0, 100).await.unwrap(), "abcdefgh23456789");
        let (_, len) = b.clone_range(0, &b, 8, 4).await.unwrap();
        assert_eq!((len, b.read_at(0, 100).await.unwrap()), (4, "2345efgh23456789".into()));
        // Every third byte, so that one command is not enough.
        let count = CloneRange::EXTENTS_MAX + 10;
        for i in 0..count {
            a.write_at(100 + 3 * i as u64, "x".into()).await.unwrap();
            if i % 500 == 0 {
                // Few enough to ride in the publish: there are no data servers here.
                a.flush().await.unwrap();
            }
        }
        let (attr, len) = b.clone_range(0, &a, 0, 0).await.unwrap();
        assert_eq!((attr.size, len), (a.attr().await.unwrap().size, attr.size));
        let all = usize::try_from(len).unwrap();
        assert_eq!(a.read_at(0, all).await.unwrap(), b.read_at(0, all).await.unwrap());
        let reading = client.open_inode(b.inode(), OpenOptions::reading()).await.unwrap();
        assert_eq!(reading.clone_range(0, &a, 0, 1).await.unwrap_err().errno(), 22);
        assert_eq!(b.clone_range(0, &a, len, 1).await.unwrap_err().errno(), 22);
        client.close().await;
    }
}

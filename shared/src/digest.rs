//! Digests of whole tables, by which `verify` proves equality.
//!
//! A row's line is hashed; the first 64 bits are XORed into the bucket of the first byte of the row's content hash.
//! XOR needs no order, so either side may stream its rows as it finds them. PostgreSQL computes the same by
//! `bit_xor(('x' || left(encode(sha256(convert_to(line, 'UTF8')), 'hex'), 16))::bit(64)::bigint)`.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::hash::sha256;
use crate::{ContentHash, Origin};

/// Rows and digest of one table, in all and by bucket.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TableDigest {
    pub rows: u64,
    /// XOR over all rows, as 16 hexadecimal digits.
    #[serde(with = "hex_u64")]
    #[cfg_attr(feature = "openapi", schema(value_type = String, pattern = "^[0-9a-f]{16}$"))]
    pub digest: u64,
    /// By the first byte of the content hash (of a link: of its message's origin), as two hexadecimal digits.
    pub buckets: BTreeMap<String, BucketDigest>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct BucketDigest {
    pub rows: u64,
    #[serde(with = "hex_u64")]
    #[cfg_attr(feature = "openapi", schema(value_type = String, pattern = "^[0-9a-f]{16}$"))]
    pub digest: u64,
}

impl TableDigest {
    /// `ORIGIN_HASH:OCCURRENCE:CONTENT_HASH:SESSION`, the session last since it may hold anything.
    pub fn add_message(&mut self, origin: &Origin, content_hash: ContentHash) {
        let line = format!(
            "{}:{}:{content_hash}:{}",
            origin.content_hash, origin.occurrence, origin.session_id
        );
        self.add(content_hash, &line);
    }

    /// `TASK_ID:CONTENT_HASH`
    pub fn add_task(&mut self, id: Uuid, content_hash: ContentHash) {
        self.add(content_hash, &format!("{}:{content_hash}", id.hyphenated()));
    }

    /// `TASK_ID:ORIGIN_HASH:OCCURRENCE:SEQUENCE:SESSION`, with an empty sequence where there is none.
    pub fn add_link(&mut self, task_id: Uuid, message: &Origin, sequence: Option<i64>) {
        let sequence = sequence.map(|n| n.to_string()).unwrap_or_default();
        let line = format!(
            "{}:{}:{}:{sequence}:{}",
            task_id.hyphenated(),
            message.content_hash,
            message.occurrence,
            message.session_id
        );
        self.add(message.content_hash, &line);
    }

    /// Buckets that differ, with the rows here and there.
    pub fn differing(&self, other: &Self) -> Vec<(String, u64, u64)> {
        let none = BucketDigest::default();
        let mut names: Vec<&String> = self.buckets.keys().chain(other.buckets.keys()).collect();
        names.sort_unstable();
        names.dedup();
        let mut differing = Vec::new();
        for name in names {
            let (here, there) = (
                self.buckets.get(name).unwrap_or(&none),
                other.buckets.get(name).unwrap_or(&none),
            );
            if here != there {
                differing.push((name.clone(), here.rows, there.rows));
            }
        }
        differing
    }

    fn add(&mut self, bucket_by: ContentHash, line: &str) {
        let bits = sha256(line.as_bytes()).first_u64();
        self.rows += 1;
        self.digest ^= bits;
        let mut name = String::with_capacity(2);
        write!(name, "{:02x}", bucket_by.as_bytes()[0]).expect("writing to a String cannot fail");
        let bucket = self.buckets.entry(name).or_default();
        bucket.rows += 1;
        bucket.digest ^= bits;
    }
}

mod hex_u64 {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(value: &u64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{value:016x}"))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
        let text = String::deserialize(deserializer)?;
        u64::from_str_radix(&text, 16).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(session: &str) -> Origin {
        Origin {
            session_id: session.into(),
            content_hash: sha256(session.as_bytes()),
            occurrence: 0,
        }
    }

    #[test]
    fn p16_digests_do_not_depend_on_the_order_of_rows() {
        let (mut ab, mut ba) = (TableDigest::default(), TableDigest::default());
        for (digest, order) in [(&mut ab, ["a", "b"]), (&mut ba, ["b", "a"])] {
            for name in order {
                digest.add_message(&origin(name), sha256(name.as_bytes()));
            }
        }
        assert_eq!(ab, ba);
    }

    #[test]
    fn p16_an_edited_row_differs_in_its_buckets_and_nowhere_else() {
        let (mut here, mut there) = (TableDigest::default(), TableDigest::default());
        for name in ["a", "b", "c"] {
            here.add_message(&origin(name), sha256(name.as_bytes()));
            let edited = if name == "b" { "edited" } else { name };
            there.add_message(&origin(name), sha256(edited.as_bytes()));
        }
        let buckets = here.differing(&there);
        assert_eq!(
            buckets.len(),
            2,
            "the bucket it left and the one it came to: {buckets:?}"
        );
        assert!(here.differing(&here.clone()).is_empty());
    }

    #[test]
    fn a_digest_is_written_as_sixteen_digits() {
        let mut digest = TableDigest::default();
        digest.add_task(Uuid::from_u128(1), sha256(b"x"));
        let json = serde_json::to_value(&digest).unwrap();
        assert_eq!(json["digest"].as_str().unwrap().len(), 16);
        assert_eq!(serde_json::from_value::<TableDigest>(json).unwrap(), digest);
    }
}

//! The records that extend a tar header: `"%d %s=%s\n", length, keyword, value`.

use super::tar::Extent;

/// What records say about the entry after them; what nothing needs is left aside.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Pax {
    pub(crate) path: Option<Vec<u8>>,
    pub(crate) link: Option<Vec<u8>>,
    pub(crate) size: Option<u64>,
    pub(crate) uid: Option<i64>,
    pub(crate) gid: Option<i64>,
    pub(crate) mtime: Option<(i64, u32)>,
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub(crate) sparse: Option<PaxSparse>,
}

/// What records say about a sparse file, in the three ways that GNU tar had over time.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct PaxSparse {
    pub(crate) name: Option<Vec<u8>>,
    pub(crate) size: Option<u64>,
    pub(crate) extents: Vec<Extent>,
    /// Version 1.0: the map stands before the bytes.
    pub(crate) map_before_data: bool,
}

// === impl Pax ===

impl Pax {
    /// Reads records.
    pub(crate) fn parse(mut bytes: &[u8]) -> Result<Self, String> {
        let mut pax = Self::default();
        while !bytes.is_empty() {
            let (record, rest) = split(bytes).ok_or("its extensions are no list of records")?;
            bytes = rest;
            let equals = record.iter().position(|byte| *byte == b'=');
            let (key, value) = equals
                .map(|at| (&record[..at], &record[at + 1..]))
                .ok_or("a record of its extensions has no `=`")?;
            pax.take(key, value).ok_or_else(|| {
                let key = String::from_utf8_lossy(key);
                format!("the record `{}` of its extensions has a bad value", key.escape_debug())
            })?;
        }
        Ok(pax)
    }

    fn take(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
            self.xattrs.push((name.to_vec(), value.to_vec()));
            return Some(());
        }
        if let Some(key) = key.strip_prefix(b"GNU.sparse.") {
            return self.sparse.get_or_insert_default().take(key, value);
        }
        // A record without a value takes back what an earlier one said.
        let some = !value.is_empty();
        match key {
            b"path" => self.path = some.then(|| value.to_vec()),
            b"linkpath" => self.link = some.then(|| value.to_vec()),
            b"size" => self.size = if some { Some(decimal(value)?) } else { None },
            b"uid" => {
                self.uid = if some { Some(i64::try_from(decimal(value)?).ok()?) } else { None }
            }
            b"gid" => {
                self.gid = if some { Some(i64::try_from(decimal(value)?).ok()?) } else { None }
            }
            b"mtime" => self.mtime = if some { Some(time(value)?) } else { None },
            _ => {}
        }
        Some(())
    }
}

// === impl PaxSparse ===

impl PaxSparse {
    fn take(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        match key {
            b"major" => self.map_before_data = decimal(value)? == 1,
            b"name" => self.name = Some(value.to_vec()),
            b"size" | b"realsize" => self.size = Some(decimal(value)?),
            b"offset" => self.extents.push(Extent { offset: decimal(value)?, length: 0 }),
            b"numbytes" => self.extents.last_mut()?.length = decimal(value)?,
            b"map" => {
                let mut numbers = value.split(|byte| *byte == b',');
                while let Some(offset) = numbers.next().filter(|offset| !offset.is_empty()) {
                    let (offset, length) = (decimal(offset)?, decimal(numbers.next()?)?);
                    self.extents.push(Extent { offset, length });
                }
            }
            _ => {}
        }
        Some(())
    }
}

/// Splits the first record off, without its length and its line end. Its value may hold anything.
fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let space = bytes.iter().take(20).position(|byte| *byte == b' ')?;
    let length = usize::try_from(decimal(&bytes[..space])?).ok()?;
    let record = bytes.get(space + 1..length)?.strip_suffix(b"\n")?;
    Some((record, &bytes[length..]))
}

fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Reads seconds since 1970 with an optional fraction.
fn time(text: &[u8]) -> Option<(i64, u32)> {
    let text = std::str::from_utf8(text).ok()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = whole.parse().ok()?;
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    let nanos: u32 = digits.parse().ok()?;
    match (whole.starts_with('-'), nanos) {
        // Before 1970 a fraction counts backwards.
        (true, 1..) => Some((seconds.checked_sub(1)?, 1_000_000_000 - nanos)),
        (true | false, _) => Some((seconds, nanos)),
    }
}

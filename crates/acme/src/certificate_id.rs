//! The name by which an authority knows a certificate that it issued (RFC 9773, 4.1): its issuer's
//! key identifier and its serial number.
//!
//! webpki, which judges certificates here, shows neither of them; so this walks to the two fields
//! and reads nothing else. Whatever is not as it should be has no name, which costs the authority's
//! advice on renewal and nothing more.

use instant_acme::CertificateIdentifier;

const INTEGER: u8 = 0x02;
const OCTETS: u8 = 0x04;
const OBJECT_ID: u8 = 0x06;
const SEQUENCE: u8 = 0x30;
/// `[0]`, primitive: the key identifier in its extension.
const KEY_ID: u8 = 0x80;
/// `[0]`, constructed: the version.
const VERSION: u8 = 0xa0;
/// `[3]`, constructed: the extensions.
const EXTENSIONS: u8 = 0xa3;
/// 2.5.29.35: the authority's key identifier.
const AUTHORITY_KEY: [u8; 3] = [0x55, 0x1d, 0x23];

/// What is left to be read.
#[derive(Clone, Copy)]
struct Fields<'a>(&'a [u8]);

/// Finds the name of a certificate.
pub(crate) fn of(der: &[u8]) -> Option<CertificateIdentifier<'static>> {
    let mut signed = Fields(Fields(Fields(der).next_of(SEQUENCE)?).next_of(SEQUENCE)?);
    let (mut tag, mut content) = signed.next()?;
    if tag == VERSION {
        (tag, content) = signed.next()?;
    }
    let serial = (tag == INTEGER).then_some(content)?;
    let extensions = loop {
        if let (EXTENSIONS, content) = signed.next()? {
            break content;
        }
    };
    let mut extensions = Fields(Fields(extensions).next_of(SEQUENCE)?);
    let value = loop {
        let mut extension = Fields(extensions.next_of(SEQUENCE)?);
        if extension.next_of(OBJECT_ID)? != AUTHORITY_KEY {
            continue;
        }
        break loop {
            if let (OCTETS, content) = extension.next()? {
                break content;
            }
        };
    };
    let key = Fields(Fields(value).next_of(SEQUENCE)?).next_of(KEY_ID)?;
    Some(CertificateIdentifier::new(key.into(), serial.into()))
}

// === impl Fields ===

impl<'a> Fields<'a> {
    /// Takes a field: its tag, and what it holds.
    fn next(&mut self) -> Option<(u8, &'a [u8])> {
        let (tag, rest) = self.0.split_first()?;
        let (first, mut rest) = rest.split_first()?;
        let mut length = usize::from(*first);
        if length >= 0x80 {
            let (bytes, after) = rest.split_at_checked(length & 0x7f).filter(|(it, _)| {
                // No certificate is longer than four bytes can say.
                (1..=4).contains(&it.len())
            })?;
            length = bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
            rest = after;
        }
        let (content, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some((*tag, content))
    }

    fn next_of(&mut self, tag: u8) -> Option<&'a [u8]> {
        self.next().and_then(|(found, content)| (found == tag).then_some(content))
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, IsCa, Issuer, KeyIdMethod, KeyPair, SerialNumber};

    use super::*;

    fn certificate(names_its_issuer: bool) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.key_identifier_method = KeyIdMethod::PreSpecified(vec![0x69, 0x88, 0x5b]);
        let issuer = Issuer::new(params, KeyPair::generate().expect("a key"));
        let mut params = CertificateParams::new(vec!["a.example".to_owned()]).expect("a name");
        // The first bit is set, so that a byte of zero stands before it.
        params.serial_number = Some(SerialNumber::from_slice(&[0x87, 0x65, 0x43]));
        params.use_authority_key_identifier_extension = names_its_issuer;
        let key = KeyPair::generate().expect("a key");
        params.signed_by(&key, &issuer).expect("signed").der().to_vec()
    }

    #[test]
    fn a_certificate_is_named_after_issuer_and_serial() {
        let name = of(&certificate(true)).expect("a name").to_string();
        assert_eq!(name, "aYhb.AIdlQw");
        assert!(of(&certificate(false)).is_none());
    }

    #[test]
    fn what_is_cut_or_changed_is_no_trouble() {
        let whole = certificate(true);
        for at in 0..whole.len() {
            let mut changed = whole.clone();
            assert!(of(&changed[..at]).is_none(), "cut at {at}");
            for bits in [1, 0x80, 0xff] {
                changed[at] = whole[at] ^ bits;
                // Named otherwise, or not at all; what matters is that it ends.
                drop(of(&changed));
            }
        }
    }
}

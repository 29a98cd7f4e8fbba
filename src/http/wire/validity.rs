//! Until when a certificate is valid (RFC 5280 section 4.1.2.5): as much of DER as leads there. Pure.

use std::time::SystemTime;

const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// `notAfter` of a certificate in DER; `None` when it cannot be read.
pub(super) fn not_after(certificate: &[u8]) -> Option<SystemTime> {
    let (_, certificate, _) = element(certificate, Some(SEQUENCE))?;
    let (_, mut fields, _) = element(certificate, Some(SEQUENCE))?;
    if fields.first() == Some(&VERSION) {
        (.., fields) = element(fields, Some(VERSION))?;
    }
    // Serial number, signature algorithm, issuer.
    for _ in 0..3 {
        (.., fields) = element(fields, None)?;
    }
    let (_, validity, _) = element(fields, Some(SEQUENCE))?;
    let (.., rest) = element(validity, None)?;
    let (tag, time, _) = element(rest, None)?;
    moment(tag, std::str::from_utf8(time).ok()?)
}

/// The first element: its tag, its content, and what follows it.
fn element(der: &[u8], tag: Option<u8>) -> Option<(u8, &[u8], &[u8])> {
    let (&found, rest) = der.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        // Four bytes are more than any certificate has.
        0x81..=0x84 => {
            let (length, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            (length.iter().fold(0, |all, byte| all << 8 | usize::from(*byte)), rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    (tag.is_none_or(|tag| tag == found)).then_some((found, content, rest))
}

/// `YYMMDDHHMMSSZ` or `YYYYMMDDHHMMSSZ`.
fn moment(tag: u8, text: &str) -> Option<SystemTime> {
    let digits = text.strip_suffix('Z').filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))?;
    let digits = match (tag, digits.len()) {
        // Two digits are of 1950 to 2049.
        (UTC_TIME, 12) => format!("{}{digits}", if digits < "50" { "20" } else { "19" }),
        (GENERALIZED_TIME, 14) => digits.to_owned(),
        _ => return None,
    };
    let (date, time) = digits.split_at(8);
    let text = format!("{}-{}-{}T{}:{}:{}Z", &date[..4], &date[4..6], &date[6..], &time[..2], &time[2..4], &time[4..]);
    humantime::parse_rfc3339(&text).ok()
}

#[cfg(test)]
mod tests {
    use rustls_pki_types::{CertificateDer, pem::PemObject as _};

    use super::*;

    fn text(at: Option<SystemTime>) -> Option<String> {
        at.map(|at| humantime::format_rfc3339_seconds(at).to_string())
    }

    #[test]
    fn the_end_of_a_certificate_is_read_in_both_forms_of_time() {
        // As openssl x509 -enddate says of them.
        for (pem, end) in [
            (include_str!("server/localhost.pem"), "2126-10-28T11:46:15Z"),
            (include_str!("../../../tests/tls/expired.pem"), "2021-01-01T00:00:00Z"),
        ] {
            let certificate = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
            assert_eq!(text(not_after(&certificate)).as_deref(), Some(end));
            // Cut anywhere before the dates, or turned into anything else, it is no certificate, and no panic.
            for length in 0..certificate.len() {
                not_after(&certificate[..length]);
                let mut changed = certificate.to_vec();
                changed[length] ^= 0xff;
                not_after(&changed);
            }
            assert_eq!(not_after(&certificate[..40]), None);
        }
        assert_eq!(text(moment(UTC_TIME, "500101000000Z")).as_deref(), None, "humantime begins with 1970");
        assert_eq!(text(moment(UTC_TIME, "491231235959Z")).as_deref(), Some("2049-12-31T23:59:59Z"));
        for wrong in ["", "Z", "491231235959", "4912312359Z", "49123123595éZ", "491331235959Z"] {
            assert_eq!(moment(UTC_TIME, wrong), None, "{wrong}");
        }
    }
}

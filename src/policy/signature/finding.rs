//! Why a signature does not count.

/// Why a signature does not count, from what has least to do with a right one to what lacks least: the last one of an image's signatures
/// is what a report says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Finding {
    /// No source that is trusted could have made it.
    OtherKind,
    /// It is no document of its kind, or one that two readers read in two ways.
    Malformed,
    /// It is larger than what is read.
    TooLarge,
    /// There are more than are looked at.
    TooMany,
    /// It is in COSE.
    Cose,
    /// Its algorithm, scheme or extension is none that is verified here.
    Unsupported,
    /// It is a statement that says something else than that the image is signed.
    OtherStatement,
    /// No trusted key made it.
    OtherKey,
    /// The signature is not of what it stands beside.
    Broken,
    /// The trusted roots did not issue its certificate.
    OtherRoots,
    /// Its certificate has expired, or had when it was made.
    ExpiredCertificate,
    /// Its certificate is not valid yet, or was not when it was made.
    EarlyCertificate,
    /// The transparency log does not vouch for it.
    NotLogged,
    /// No trusted time says when it was made.
    NoTime,
    /// Its certificate is of another issuer of identities.
    OtherIssuer,
    /// Its certificate is of another identity.
    OtherIdentity,
    /// The signer limited it, and that time is over.
    Expired,
    /// It is a right signature of another digest.
    OtherDigest,
    /// It is a right signature that names another repository.
    OtherRepository,
}

impl Finding {
    /// As a part of a sentence about the image. Nothing that a publisher wrote is in it.
    pub fn as_str(self) -> &'static str {
        match self {
            Finding::OtherKind => "has a signature of another kind than those that are trusted",
            Finding::Malformed => "has a signature that is malformed",
            Finding::TooLarge => "has a signature that is too large to be verified",
            Finding::TooMany => "has more signatures than are verified",
            Finding::Cose => "has a signature in COSE, which Weir does not verify",
            Finding::Unsupported => "has a signature of an algorithm or scheme that Weir does not verify",
            Finding::OtherStatement => "has a signed statement that is no signature of an image",
            Finding::OtherKey => "has a signature by another key than those that are trusted",
            Finding::Broken => "has a signature that does not match what is signed",
            Finding::OtherRoots => "has a signature by a certificate that the trusted roots did not issue",
            Finding::ExpiredCertificate => "has a signature by a certificate that has expired",
            Finding::EarlyCertificate => "has a signature by a certificate that is not valid yet",
            Finding::NotLogged => "has a signature that the trusted transparency log does not vouch for",
            Finding::NoTime => "has a signature without a trusted time",
            Finding::OtherIssuer => "has a signature by an identity of another issuer than the trusted ones",
            Finding::OtherIdentity => "has a signature by another identity than the trusted ones",
            Finding::Expired => "has a signature that has expired",
            Finding::OtherDigest => "has a signature that is of another digest",
            Finding::OtherRepository => "has a signature that names another repository",
        }
    }
}

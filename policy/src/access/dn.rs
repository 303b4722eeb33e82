//! Distinguished names as RFC 4514 writes them, and patterns for them.
//!
//! A name is taken apart before it is compared, so nothing inside a value (an escaped comma, a quote) can pass for an
//! attribute. A pattern is a name whose values may have stars. It fits a subject that has, for each kind of attribute that
//! the pattern names, as many of that kind as the pattern, in the same order, each value fitting as a whole; kinds that the
//! pattern does not name do not matter, nor does the order of different kinds. So `CN=blue-*` fits neither a subject with
//! two CNs nor one whose CN merely contains `blue-`. Kinds are compared without case and by any of their names
//! (`CN`, `commonName`, `2.5.4.3`), values with case: less is admitted than RFC 4517 would call equal, never more.

use std::fmt;
use std::str::FromStr;

use super::glob::Glob;

/// A subject's distinguished name, the most specific attribute first, as RFC 4514 writes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dn(Vec<Attribute<String>>);

/// A distinguished name whose values may have stars.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnPattern(Vec<Attribute<Glob>>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Attribute<T> {
    kind: String,
    value: Value<T>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Value<T> {
    Text(T),
    /// What is no text, or of no known syntax: its encoding in hex.
    Raw(String),
}

/// Kinds by the name that is shown, their number, and other names that are in use.
const KINDS: [(&str, &str, &[&str]); 14] = [
    ("CN", "2.5.4.3", &["COMMONNAME"]),
    ("SN", "2.5.4.4", &["SURNAME"]),
    ("SERIALNUMBER", "2.5.4.5", &[]),
    ("C", "2.5.4.6", &["COUNTRYNAME"]),
    ("L", "2.5.4.7", &["LOCALITYNAME"]),
    ("ST", "2.5.4.8", &["STATEORPROVINCENAME", "S"]),
    ("STREET", "2.5.4.9", &["STREETADDRESS"]),
    ("O", "2.5.4.10", &["ORGANIZATIONNAME"]),
    ("OU", "2.5.4.11", &["ORGANIZATIONALUNITNAME"]),
    ("TITLE", "2.5.4.12", &[]),
    ("GN", "2.5.4.42", &["GIVENNAME"]),
    ("UID", "0.9.2342.19200300.100.1.1", &["USERID"]),
    ("DC", "0.9.2342.19200300.100.1.25", &["DOMAINCOMPONENT"]),
    ("EMAILADDRESS", "1.2.840.113549.1.9.1", &["EMAIL", "E"]),
];

/// Why a text is no distinguished name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DnFault {
    /// There is nothing in it.
    #[error("there is no attribute: write one or more, like CN=blue-*,O=Example")]
    Empty,
    /// An attribute without a kind, or with one that is none.
    #[error(
        "`{0}` is no kind of attribute: write KIND=VALUE with commas between, like CN=blue-*,O=Example, with a backslash \
         before a comma that belongs to a value"
    )]
    Kind(String),
    /// A character that has to be written with a backslash.
    #[error("`{0}` in a value is written with a backslash before it")]
    Bare(char),
    /// A backslash that is followed by nothing that can be written so.
    #[error("a backslash has to be followed by two hexadecimal digits or one of space \" # + , ; < = > * and \\")]
    Escape,
    /// `#` that is not followed by whole bytes in hex.
    #[error("`#` has to be followed by whole bytes in hexadecimal digits, or written `\\#`")]
    Hex,
    /// The bytes of a value are not UTF-8.
    #[error("the bytes of a value are not UTF-8")]
    NotUtf8,
}

impl Dn {
    /// The same with one more attribute, less specific than those before. The kind is a name or an OID.
    ///
    /// # Errors
    /// [`DnFault::Kind`].
    #[cfg(test)]
    pub(crate) fn and(mut self, kind: &str, text: &str) -> Result<Self, DnFault> {
        self.0.push(Attribute { kind: kind_of(kind)?, value: Value::Text(text.to_owned()) });
        Ok(self)
    }
}

impl FromStr for Dn {
    type Err = DnFault;

    /// Reads RFC 4514; spaces around commas, pluses and equals signs are passed over, as RFC 2253 had it.
    fn from_str(text: &str) -> Result<Self, DnFault> {
        read(text, |pieces| pieces.join("*")).map(Self)
    }
}

impl FromStr for DnPattern {
    type Err = DnFault;

    fn from_str(text: &str) -> Result<Self, DnFault> {
        let attributes = read(text, Glob::of_pieces)?;
        if attributes.is_empty() { Err(DnFault::Empty) } else { Ok(Self(attributes)) }
    }
}

impl DnPattern {
    /// Whether the subject fits.
    #[must_use]
    pub fn matches(&self, subject: &Dn) -> bool {
        self.0.iter().all(|Attribute { kind, .. }| {
            let mut wanted = self.0.iter().filter(|other| other.kind == *kind);
            let mut found = subject.0.iter().filter(|other| other.kind == *kind);
            // As many, and each fits.
            wanted.by_ref().all(|w| found.next().is_some_and(|f| w.value.matches(&f.value))) && found.next().is_none()
        })
    }
}

impl Value<Glob> {
    fn matches(&self, value: &Value<String>) -> bool {
        match (self, value) {
            (Self::Text(glob), Value::Text(text)) => glob.matches(text),
            (Self::Raw(wanted), Value::Raw(found)) => wanted == found,
            (Self::Text(_) | Self::Raw(_), _) => false,
        }
    }
}

/// The name by which a kind is compared.
fn kind_of(kind: &str) -> Result<String, DnFault> {
    let upper = kind.to_ascii_uppercase();
    let plain = upper.strip_prefix("OID.").unwrap_or(&upper);
    if let Some((name, _, _)) =
        KINDS.iter().find(|(name, oid, others)| *name == plain || *oid == plain || others.contains(&plain))
    {
        return Ok((*name).to_owned());
    }
    let number = |part: &str| part == "0" || (!part.starts_with('0') && !part.is_empty());
    let oid =
        plain.contains('.') && plain.bytes().all(|b| b.is_ascii_digit() || b == b'.') && plain.split('.').all(number);
    let name = plain.starts_with(|c: char| c.is_ascii_alphabetic())
        && plain.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    if oid || name { Ok(plain.to_owned()) } else { Err(DnFault::Kind(kind.to_owned())) }
}

fn read<T>(text: &str, taken: impl Fn(Vec<String>) -> T) -> Result<Vec<Attribute<T>>, DnFault> {
    let mut attributes = Vec::new();
    let mut rest = text;
    if rest.trim_matches(' ').is_empty() {
        return Ok(attributes);
    }
    loop {
        let (kind, after) = rest.split_once('=').ok_or_else(|| DnFault::Kind(rest.trim_matches(' ').to_owned()))?;
        let kind = kind_of(kind.trim_matches(' '))?;
        let (value, after) = value(after.trim_start_matches(' '))?;
        let value = match value {
            Value::Text(pieces) => Value::Text(taken(pieces)),
            Value::Raw(hex) => Value::Raw(hex),
        };
        attributes.push(Attribute { kind, value });
        match after {
            Some(after) => rest = after,
            None => return Ok(attributes),
        }
    }
}

/// A value, its text in pieces between stars, and what follows the comma or plus behind it; none: nothing does.
fn value(text: &str) -> Result<(Value<Vec<String>>, Option<&str>), DnFault> {
    if let Some(hex) = text.strip_prefix('#') {
        let end = hex.find([',', '+']);
        let (digits, rest) = match end {
            Some(at) => (hex.get(..at).unwrap_or_default(), hex.get(at + 1..)),
            None => (hex, None),
        };
        let digits = digits.trim_end_matches(' ');
        let whole = !digits.is_empty() && digits.len() % 2 == 0 && digits.bytes().all(|b| b.is_ascii_hexdigit());
        return if whole { Ok((Value::Raw(digits.to_ascii_lowercase()), rest)) } else { Err(DnFault::Hex) };
    }
    let mut pieces: Vec<Vec<u8>> = Vec::new();
    let mut piece: Vec<u8> = Vec::new();
    // Up to here the piece is kept; what follows are spaces without a backslash, so far.
    let mut kept = 0;
    let mut chars = text.chars();
    let mut rest = None;
    while let Some(found) = chars.next() {
        match found {
            ',' | '+' => {
                rest = Some(chars.as_str());
                break;
            }
            ';' | '<' | '>' | '"' | '\0' => return Err(DnFault::Bare(found)),
            '*' => {
                pieces.push(std::mem::take(&mut piece));
                kept = 0;
            }
            '\\' => {
                let next = chars.next().ok_or(DnFault::Escape)?;
                match next.to_digit(16) {
                    Some(high) => {
                        let low = chars.next().and_then(|low| low.to_digit(16)).ok_or(DnFault::Escape)?;
                        piece.push(u8::try_from(high * 16 + low).unwrap_or_default());
                    }
                    None if " \"#+,;<=>*\\".contains(next) => piece.push(u8::try_from(next).unwrap_or_default()),
                    None => return Err(DnFault::Escape),
                }
                kept = piece.len();
            }
            ' ' => piece.push(b' '),
            other => {
                piece.extend_from_slice(other.encode_utf8(&mut [0; 4]).as_bytes());
                kept = piece.len();
            }
        }
    }
    piece.truncate(kept);
    pieces.push(piece);
    let texts: Result<Vec<String>, _> = pieces.into_iter().map(String::from_utf8).collect();
    Ok((Value::Text(texts.map_err(|_| DnFault::NotUtf8)?), rest))
}

/// Writes text so that it is read back as it is: `first` and `last` say whether it begins and ends a value.
fn escape(f: &mut fmt::Formatter<'_>, text: &str, first: bool, last: bool) -> fmt::Result {
    let end = text.char_indices().next_back().map(|(at, _)| at);
    for (at, c) in text.char_indices() {
        let edge = (first && at == 0 && matches!(c, ' ' | '#')) || (last && Some(at) == end && c == ' ');
        if c.is_control() || c == '*' {
            let mut bytes = [0; 4];
            c.encode_utf8(&mut bytes).bytes().try_for_each(|byte| write!(f, "\\{byte:02x}"))?;
        } else if edge || matches!(c, '"' | '+' | ',' | ';' | '<' | '>' | '\\') {
            write!(f, "\\{c}")?;
        } else {
            write!(f, "{c}")?;
        }
    }
    Ok(())
}

fn show<T>(
    f: &mut fmt::Formatter<'_>,
    attributes: &[Attribute<T>],
    text: impl Fn(&mut fmt::Formatter<'_>, &T) -> fmt::Result,
) -> fmt::Result {
    for (index, Attribute { kind, value }) in attributes.iter().enumerate() {
        write!(f, "{}{kind}=", if index > 0 { "," } else { "" })?;
        match value {
            Value::Text(value) => text(f, value)?,
            Value::Raw(hex) => write!(f, "#{hex}")?,
        }
    }
    Ok(())
}

/// As RFC 4514 writes it. A star has its backslash, so that it can be used as a pattern for just this name.
impl fmt::Display for Dn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        show(f, &self.0, |f, text| escape(f, text, true, true))
    }
}

impl fmt::Display for DnPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        show(f, &self.0, |f, glob| {
            let pieces = glob.pieces();
            pieces.iter().enumerate().try_for_each(|(index, piece)| {
                f.write_str(if index > 0 { "*" } else { "" })?;
                escape(f, piece, index == 0, index + 1 == pieces.len())
            })
        })
    }
}

#[cfg(test)]
mod tests;

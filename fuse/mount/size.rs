//! Sizes as people write them.

use thiserror::Error;

/// Why a text is not a size.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error("'{0}' is not a size: write a number of bytes, or a number with K, M, G or T (units of 1024)")]
pub struct SizeError(pub String);

/// Bytes from `4096`, `64K`, `512M`, `8G`, `1T`; also in lower case, and with `B` or `iB` after.
pub fn parse_size(text: &str) -> Result<u64, SizeError> {
    let bad = || SizeError(text.to_owned());
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(end);
    let shift = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return Err(bad()),
    };
    let number: u64 = digits.parse().map_err(|_| bad())?;
    number.checked_mul(1 << shift).ok_or_else(bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suffixes_scale() {
        for (text, bytes) in
            [("0", 0), ("4096", 4096), ("64K", 65_536), ("2m", 2 << 20), ("3GiB", 3 << 30), ("1Tb", 1 << 40), ("7B", 7)]
        {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for text in ["", "K", "-1", "1.5G", "1 G", "1Q", "99999999999999999999", "16777216T", "1é"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }
}

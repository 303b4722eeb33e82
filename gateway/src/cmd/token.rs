//! The operator's token of a gateway that was given no configuration: it makes itself one, so that a newcomer can change
//! something at once and nobody else can. Never touches a token that somebody else's configuration names.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Writes a token that nobody knows to a file that only its owner can read, in place of whatever was there.
pub(super) fn write_fresh(path: &Path) -> io::Result<()> {
    let mut secret = [0; 24];
    File::open("/dev/urandom")?.read_exact(&mut secret)?;
    let mut line: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
    line.push('\n');
    // Not over what is there: that could be a link, or a file that others have open.
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?.write_all(line.as_bytes())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn a_fresh_token_takes_the_place_of_what_is_there_and_is_its_owners_alone() {
        let folder = std::env::temp_dir().join(format!("nbd-gateway-token-{}", std::process::id()));
        fs::create_dir(&folder).unwrap();
        let (path, other) = (folder.join("token"), folder.join("other"));
        fs::write(&other, "theirs").unwrap();
        symlink(&other, &path).unwrap();
        let mut seen = Vec::new();
        for _ in 0..2 {
            write_fresh(&path).unwrap();
            let about = fs::symlink_metadata(&path).unwrap();
            assert!(about.is_file());
            assert_eq!(about.permissions().mode() & 0o777, 0o600);
            seen.push(fs::read_to_string(&path).unwrap());
        }
        assert_ne!(seen[0], seen[1]);
        assert_eq!(seen[0].trim_end().len(), 48);
        assert_eq!(fs::read_to_string(&other).unwrap(), "theirs");
        fs::remove_dir_all(&folder).unwrap();
        assert!(write_fresh(&path).is_err());
    }
}

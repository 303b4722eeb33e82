//! Where an export's data is, and how a template's backend becomes that of one name.
//!
//! A text is taken apart into host, path and parameters before a client's name is put in, so that no name can become
//! more than a part of an export's name or of one component of a path.

use std::fmt;
use std::path::{Path, PathBuf};

use nbd_gateway_policy::types::{ExportName, NameError, Size};

use crate::uri::{
    Endpoint, Host, NbdUri, Parts, Place, UriError, UriTls, check_socket, decode, decode_path, has_tilde,
};

use super::template::Blanks;

const FORMS: &str = "use nbd://HOST[:PORT]/EXPORT, nbd+unix:///EXPORT?socket=PATH (or nbds:// and nbds+unix:// for TLS), \
                     file:PATH or memory:";

/// Where an export's data is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Backend {
    /// An NBD server.
    Nbd(NbdUri),
    /// A file that the gateway serves itself.
    File {
        /// The file; relative to the working directory if it does not start with `/`.
        path: PathBuf,
        /// What it is made to be if it is missing or empty; None: it has to be there.
        size: Option<Size>,
        /// The directory in which the file of a template's name has to be, reached from there without symbolic links.
        /// None: the configuration names the file itself.
        beneath: Option<PathBuf>,
    },
    /// Memory of the gateway; gone when it ends.
    Memory {
        /// How large the disk is.
        size: Size,
    },
}

impl Backend {
    /// Whether the gateway holds the data itself.
    pub const fn is_embedded(&self) -> bool {
        !matches!(self, Self::Nbd(_))
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nbd(uri) => uri.fmt(f),
            Self::File { path, .. } => write!(f, "file:{}", path.display()),
            Self::Memory { .. } => f.write_str("memory:"),
        }
    }
}

/// The backend of one export, or of all names of a template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Target {
    /// As it is.
    Fixed(Backend),
    /// An NBD server at an address.
    Tcp { host: Host, port: u16, export: Blanks, tls: Option<UriTls> },
    /// An NBD server at a Unix socket.
    Unix { socket: Blanks, export: Blanks, tls: Option<UriTls> },
    /// A file of the gateway's own.
    File { path: Blanks, size: Option<Size> },
}

/// What is wrong with a backend, or why a name cannot be put into one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum BackendError {
    #[error("`{0}` is not a backend: {FORMS}")]
    Form(String),
    #[error(transparent)]
    Uri(#[from] UriError),
    #[error("the backend's export has no such name: {0}")]
    Name(#[from] NameError),
    #[error("the file has no path: write file:PATH")]
    NoPath,
    #[error("`{0}` is not a path: write file:/PATH with one slash, or file:PATH for a file in the state directory")]
    Slashes(String),
    #[error("`{0}` would be taken literally, for only a shell knows what `~` is: write the whole path")]
    Tilde(String),
    #[error("a path cannot have a NUL byte")]
    Nul,
    #[error("`memory:` is all there is to write; how much is said by `size`")]
    MemoryWithMore,
    #[error("`memory:` needs a `size`")]
    MemoryWithoutSize,
    #[error(
        "`memory:` cannot serve a template: every name that a client makes up would take memory until the gateway ends"
    )]
    MemoryTemplate,
    #[error("`{{}}` cannot stand in the host or the port: clients would choose which server is connected to")]
    BlankHost,
    #[error("`{{}}` takes what `*` matched, but the name has no `*`")]
    BlankWithoutStar,
    #[error("the name is a template, but the backend has no `{{}}`: all names would open the same disk")]
    StarWithoutBlank,
    #[error("the name is a template, but nothing of its driver has a `{{}}`: all names would resize the same disk")]
    DriverWithoutBlank,
    #[error("what `*` matched is put into a path, so it cannot be empty, `.`, or contain `/`, `..` or NUL")]
    Unsafe,
    #[error("the name makes a file name of {0} bytes; the most is {NAME_MAX}: use a shorter name")]
    LongFileName(usize),
}

impl Target {
    /// Reads the value of `backend`. `size` is that of the same export, checked.
    pub(super) fn read(text: &str, template: bool, size: Option<Size>, state: &Path) -> Result<Self, BackendError> {
        let blank = text.contains("{}");
        let target = if let Some(rest) = text.strip_prefix("memory:") {
            match size {
                _ if !rest.is_empty() => return Err(BackendError::MemoryWithMore),
                _ if template => return Err(BackendError::MemoryTemplate),
                None => return Err(BackendError::MemoryWithoutSize),
                Some(size) => Self::Fixed(Backend::Memory { size }),
            }
        } else if blank && !template {
            return Err(BackendError::BlankWithoutStar);
        } else if let Some(path) = text.strip_prefix("file:") {
            file(path, template, size, state)?
        } else if text.contains("://") {
            if template { uri(text)? } else { Self::Fixed(Backend::Nbd(text.parse()?)) }
        } else {
            return Err(BackendError::Form(text.to_owned()));
        };
        if template && !blank {
            return Err(BackendError::StarWithoutBlank);
        }
        // What is wrong with any name is wrong with this one, so it is told now and not to a client.
        target.fill("x").map(|_| target)
    }

    /// The backend for the name in which `*` matched `matched`.
    pub(super) fn fill(&self, matched: &str) -> Result<Backend, BackendError> {
        Ok(match self {
            Self::Fixed(backend) => backend.clone(),
            Self::Tcp { host, port, export, tls } => {
                let export = ExportName::new(&export.fill(matched))?;
                Backend::Nbd(NbdUri::new(Endpoint::Tcp { host: host.clone(), port: *port }, export, tls.clone()))
            }
            Self::Unix { socket, export, tls } => {
                let socket = check_socket(fill_path(socket, matched)?)?;
                let export = ExportName::new(&export.fill(matched))?;
                Backend::Nbd(NbdUri::new(Endpoint::Unix(socket), export, tls.clone()))
            }
            Self::File { path, size } => {
                let beneath = Some(path.directory());
                Backend::File { path: fill_path(path, file_name(matched)?.as_str())?, size: *size, beneath }
            }
        })
    }

    /// What is said about TLS, if the backend is reached by it.
    pub(super) fn tls(&self) -> Option<&UriTls> {
        match self {
            Self::Fixed(Backend::Nbd(uri)) => uri.tls(),
            Self::Tcp { tls, .. } | Self::Unix { tls, .. } => tls.as_ref(),
            Self::Fixed(Backend::File { .. } | Backend::Memory { .. }) | Self::File { .. } => None,
        }
    }

    /// The same, to fill in what is said elsewhere.
    pub(super) fn tls_mut(&mut self) -> Option<&mut UriTls> {
        match self {
            Self::Fixed(Backend::Nbd(uri)) => uri.tls_mut(),
            Self::Tcp { tls, .. } | Self::Unix { tls, .. } => tls.as_mut(),
            Self::Fixed(Backend::File { .. } | Backend::Memory { .. }) | Self::File { .. } => None,
        }
    }

    /// Whether the server is at a Unix socket, which has no host name.
    pub(super) fn is_unix(&self) -> bool {
        match self {
            Self::Fixed(Backend::Nbd(uri)) => matches!(uri.endpoint(), Endpoint::Unix(_)),
            Self::Unix { .. } => true,
            Self::Fixed(Backend::File { .. } | Backend::Memory { .. }) | Self::File { .. } | Self::Tcp { .. } => false,
        }
    }
}

fn file(path: &str, template: bool, size: Option<Size>, state: &Path) -> Result<Target, BackendError> {
    if path.is_empty() {
        return Err(BackendError::NoPath);
    } else if path.contains('\0') {
        return Err(BackendError::Nul);
    } else if path.starts_with("//") {
        return Err(BackendError::Slashes(path.to_owned()));
    } else if has_tilde(Path::new(path)) {
        return Err(BackendError::Tilde(path.to_owned()));
    }
    // Without `.` and double slashes, so that the same file looks the same.
    let path: PathBuf = state.join(path).components().collect();
    if !template {
        return Ok(Target::Fixed(Backend::File { path, size, beneath: None }));
    }
    Ok(Target::File { path: Blanks::plain(&path.to_string_lossy()), size })
}

fn uri(text: &str) -> Result<Target, BackendError> {
    let rest = text.split_once("://").map_or("", |(_, rest)| rest);
    if rest.split(['/', '?']).next().is_some_and(|authority| authority.contains("{}")) {
        return Err(BackendError::BlankHost);
    }
    let parts = Parts::split(text)?;
    let export = Blanks::read(parts.export, decode)?;
    Ok(match parts.place {
        Place::Tcp { host, port } => Target::Tcp { host, port, export, tls: parts.tls },
        Place::Unix { socket } => Target::Unix { socket: Blanks::read(socket, decode)?, export, tls: parts.tls },
    })
}

/// Puts a name into a path as one component or a part of one, and nothing more.
pub(super) fn fill_path(path: &Blanks, matched: &str) -> Result<PathBuf, BackendError> {
    let filled = PathBuf::from(path.fill(matched));
    if path.any() {
        let longest = filled.components().map(|part| part.as_os_str().len()).max().unwrap_or_default();
        if longest > NAME_MAX {
            return Err(BackendError::LongFileName(longest));
        }
        // `.{}` and a name like `.x` can still make something else of a component: the shape has to stay as written.
        let shape = |path: &Path| -> Vec<bool> {
            path.components().map(|part| matches!(part, std::path::Component::Normal(_))).collect()
        };
        fit_for_a_path(matched)?;
        if shape(&filled) != shape(Path::new(&path.fill("x"))) {
            return Err(BackendError::Unsafe);
        }
    }
    Ok(filled)
}

/// Refuses what could mean another place than a name in a directory.
pub(super) fn fit_for_a_path(matched: &str) -> Result<(), BackendError> {
    let escapes = matched.is_empty() || matched == "." || matched.contains(['/', '\0']) || matched.contains("..");
    if escapes { Err(BackendError::Unsafe) } else { Ok(()) }
}

/// The longest name of a file, in bytes: Linux's NAME_MAX.
const NAME_MAX: usize = 255;

/// What stands in file names as it is: characters that every file system keeps as they are, and no tool takes for another thing.
const PLAIN: &str = "-_.~+=@,";

/// The part of a file's name that stands for what `*` matched. Different names always make different files, also where a
/// file system takes several spellings of a letter as one: what is not plain is percent-encoded, and so is a dot at the
/// start, so that no name hides a file.
pub(super) fn file_name(matched: &str) -> Result<String, BackendError> {
    fit_for_a_path(matched)?;
    let mut name = String::with_capacity(matched.len());
    for (at, character) in matched.char_indices() {
        let plain = character.is_ascii_alphanumeric() || PLAIN.contains(character) && !(at == 0 && character == '.');
        if plain {
            name.push(character);
        } else {
            let mut bytes = [0; 4];
            character.encode_utf8(&mut bytes).bytes().for_each(|byte| name.push_str(&format!("%{byte:02X}")));
        }
    }
    Ok(name)
}

/// What `*` matched, if `part` is what [`file_name`] makes of it.
pub(super) fn name_of_file(part: &str) -> Option<String> {
    let matched = decode_path(part).ok()?.into_os_string().into_string().ok()?;
    file_name(&matched).is_ok_and(|name| name == part).then_some(matched)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn template(text: &str) -> Target {
        Target::read(text, true, None, Path::new("state")).unwrap_or_else(|fault| panic!("{text}: {fault}"))
    }

    #[test]
    fn a_relative_file_stands_in_the_state_directory() {
        let file = |path: &str| Target::Fixed(Backend::File { path: path.into(), size: None, beneath: None });
        for (text, path) in [("file:a.img", "state/a.img"), ("file:./b//a", "state/b/a"), ("file:/a/./b", "/a/b")] {
            assert_eq!(Target::read(text, false, None, Path::new("state")), Ok(file(path)), "{text}");
        }
    }

    #[test]
    fn what_a_star_matched_becomes_part_of_an_export_name_and_of_nothing_else() {
        let target = template("nbd://host:7/pre%2F{}?");
        for hostile in ["a?socket=/x", "../../b", "a@b:1/c", "%2e", "#", "", "{}", "ä b"] {
            let expected = NbdUri::new(
                Endpoint::Tcp { host: Host::Name("host".to_owned()), port: 7 },
                ExportName::new(&format!("pre/{hostile}")).unwrap(),
                None,
            );
            let uri = expected.to_string();
            assert_eq!(target.fill(hostile), Ok(Backend::Nbd(expected)));
            assert_eq!(uri.parse::<NbdUri>().unwrap().to_string(), uri);
        }
    }

    #[test]
    fn what_a_star_matched_never_leaves_its_place_in_a_path() {
        let socket = template("nbd+unix:///{}?socket=/run/.{}/nbd.sock");
        let file = template("file:/srv/{}");
        for hostile in ["", ".", "..", "a/b", "/", "a\0", "a..b", "../x"] {
            assert_eq!(file.fill(hostile), Err(BackendError::Unsafe), "{hostile:?}");
            assert_eq!(socket.fill(hostile), Err(BackendError::Unsafe), "{hostile:?}");
        }
        let served = |path: &str| Ok(Backend::File { path: path.into(), size: None, beneath: Some("/srv".into()) });
        assert_eq!(file.fill("vm-1_a.b~+=@,"), served("/srv/vm-1_a.b~+=@,"));
        for (name, path) in [("a b", "/srv/a%20b"), (".x", "/srv/%2Ex"), ("%2f", "/srv/%252f"), ("\n*", "/srv/%0A%2A")]
        {
            assert_eq!(file.fill(name), served(path));
        }
        // Two names that some file systems take as one.
        assert_eq!((file.fill("\u{e9}"), file.fill("e\u{301}")), (served("/srv/%C3%A9"), served("/srv/e%CC%81")));
        assert_eq!(file.fill(&"\u{e9}".repeat(43)), Err(BackendError::LongFileName(258)));
        assert_eq!(socket.fill("a").unwrap().to_string(), "nbd+unix:///a?socket=/run/.a/nbd.sock");
        assert_eq!(socket.fill(&"x".repeat(200)), Err(UriError::LongSocket(215).into()));
        assert_eq!(
            template("nbd://h/a{}").fill(&"x".repeat(4096)),
            Err(NameError::TooLong { bytes: 4097, most: 4096 }.into())
        );
    }

    impl Backend {
        fn beneath(&self) -> Option<&Path> {
            match self {
                Self::File { beneath, .. } => beneath.as_deref(),
                _ => None,
            }
        }
    }

    proptest! {
        #[test]
        fn each_name_has_a_file_of_its_own(one in "\\PC{1,8}", other in "\\PC{1,8}") {
            let (Ok(a), Ok(b)) = (file_name(&one), file_name(&other)) else { return Ok(()) };
            prop_assert_eq!(one == other, a == b);
            prop_assert!(a.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/'));
            prop_assert_eq!(name_of_file(&a), Some(one));
        }

        #[test]
        fn a_filled_path_has_the_components_that_were_written(
            path in "[a.]{0,2}(/[a.]{0,2}){0,2}\\{\\}[a.]{0,2}(/[a.{}]{0,3}){0,2}",
            matched in "[ab./]{0,4}",
        ) {
            let Ok(target) = Target::read(&format!("file:/{path}"), true, None, Path::new("state")) else { return Ok(()) };
            let Ok(Backend::File { path: filled, .. }) = target.fill(&matched) else { return Ok(()) };
            let Ok(Backend::File { path: written, .. }) = target.fill("x") else { panic!("checked when read") };
            prop_assert!(filled.starts_with(target.fill("x").unwrap().beneath().unwrap()));
            prop_assert_eq!(filled.components().count(), written.components().count());
            for (now, then) in filled.components().zip(written.components()) {
                prop_assert!(now == then || matches!(now, std::path::Component::Normal(_)));
            }
        }
    }
}

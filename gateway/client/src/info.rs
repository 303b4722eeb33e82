//! `client info`: what an export is and what was negotiated, as a table or as JSON.

use nbd_gateway_config::NbdUri;
use nbd_gateway_policy::types::Bytes;
use serde::Serialize;

use super::ClientError;
use super::connect::Connection;
use crate::cli;
use nbd_gateway_proto::handshake::BlockSizes;
use nbd_gateway_proto::handshake::client::{Contexts, Negotiated, Wishes};
use nbd_gateway_proto::printable;
use nbd_gateway_proto::resize::ResizeInfo;
use nbd_gateway_proto::{ExportFlags, Features, Framing, Info, MAX_SIZE};

/// Asks for everything there is, and describes it.
pub(super) async fn run(ask: &cli::Ask) -> Result<String, ClientError> {
    let mut wishes = Wishes { contexts: Contexts::All, ..Wishes::go(ask.uri.export().as_str()) };
    wishes.infos.push(Info::RESIZE);
    let connection = Connection::open(&ask.uri, wishes).await?;
    let export = connection.export().clone();
    connection.leave().await;
    Ok(if ask.json { json(&ask.uri, &export) } else { table(&ask.uri, &export) })
}

/// The JSON's shape. Sizes are bytes.
#[derive(Serialize)]
struct Shape<'a> {
    uri: String,
    export: &'a str,
    size: u64,
    flags: Vec<String>,
    flags_value: u16,
    framing: &'static str,
    contexts: Vec<&'a str>,
    block_sizes: Option<ShapeOfBlocks>,
    name: Option<&'a str>,
    description: Option<&'a str>,
    resize: Option<ShapeOfResize>,
}

#[derive(Serialize)]
struct ShapeOfResize {
    features: Vec<String>,
    features_value: u16,
    minimum: u64,
    /// None: the server knows no bound.
    maximum: Option<u64>,
    granularity: u64,
}

#[derive(Serialize)]
struct ShapeOfBlocks {
    minimum: u32,
    preferred: u32,
    maximum: u32,
}

fn json(uri: &NbdUri, export: &Negotiated) -> String {
    let blocks = |BlockSizes { minimum, preferred, maximum }| ShapeOfBlocks { minimum, preferred, maximum };
    let shape = Shape {
        uri: uri.to_string(),
        export: uri.export().as_str(),
        size: export.size,
        flags: names(ExportFlags::NAMED, export.flags.0, |flag| flag.0),
        flags_value: export.flags.0,
        framing: match export.framing {
            Framing::Simple => "simple",
            Framing::Structured => "structured",
            Framing::Extended => "extended",
        },
        contexts: export.contexts.iter().map(|(name, _)| &name[..]).collect(),
        block_sizes: export.block_sizes.map(blocks),
        name: export.name.as_deref(),
        description: export.description.as_deref(),
        resize: export.resize.map(resize),
    };
    // Plain strings and numbers always serialise.
    let mut text = serde_json::to_string_pretty(&shape).unwrap_or_default();
    text.push('\n');
    text
}

/// One line each; what the server did not state is said to be so. Its own words are made printable.
fn table(uri: &NbdUri, export: &Negotiated) -> String {
    let mut lines: Vec<(&str, String)> = vec![("uri", uri.to_string())];
    let round = Bytes(export.size).written();
    let round = if round == export.size.to_string() { String::new() } else { format!(" ({round})") };
    lines.push(("size", format!("{} bytes{round}", export.size)));
    lines.push(("flags", names(ExportFlags::NAMED, export.flags.0, |flag| flag.0).join(" ")));
    let framing = match export.framing {
        Framing::Simple => "simple replies",
        Framing::Structured => "structured replies",
        Framing::Extended => "extended headers",
    };
    lines.push(("framing", framing.to_owned()));
    let mut contexts: Vec<String> = export.contexts.iter().map(|(name, _)| printable(name.as_bytes())).collect();
    if export.contexts_left_out > 0 {
        contexts.push(format!("and {} more", export.contexts_left_out));
    }
    lines.push(("contexts", if contexts.is_empty() { "none".to_owned() } else { contexts.join(" ") }));
    let blocks = export.block_sizes.map_or("not stated".to_owned(), |sizes| {
        format!("minimum {}, preferred {}, maximum {}", sizes.minimum, sizes.preferred, sizes.maximum)
    });
    lines.push(("block sizes", blocks));
    let sizes = export.resize.map(resize).map_or("not stated".to_owned(), |it| {
        let features = if it.features.is_empty() { "nothing".to_owned() } else { it.features.join(" ") };
        let maximum = it.maximum.map_or("not known".to_owned(), |maximum| maximum.to_string());
        format!("{features}; minimum {}, maximum {maximum}, granularity {}", it.minimum, it.granularity)
    });
    lines.push(("resize", sizes));
    if let Some(name) = export.name.as_deref().filter(|name| *name != uri.export().as_str()) {
        lines.push(("name", printable(name.as_bytes())));
    }
    if let Some(description) = &export.description {
        lines.push(("description", printable(description.as_bytes())));
    }
    lines.iter().map(|(what, value)| format!("{what:<12} {value}\n")).collect()
}

/// Bits by their names in proto.md, less the prefix; those without a name in hexadecimal.
fn names<B: Copy>(named: &[(B, &'static str)], value: u16, bit: impl Fn(B) -> u16) -> Vec<String> {
    let set = named.iter().filter(|(flag, _)| value & bit(*flag) != 0);
    let mut names: Vec<String> = set.map(|(_, name)| (*name).to_owned()).collect();
    let rest = named.iter().fold(value, |rest, (flag, _)| rest & !bit(*flag));
    if rest != 0 {
        names.push(format!("{rest:#x}"));
    }
    names
}

fn resize(info: ResizeInfo) -> ShapeOfResize {
    ShapeOfResize {
        features: names(Features::NAMED, info.features.0, |feature| feature.0),
        features_value: info.features.0,
        minimum: info.minimum,
        maximum: (info.maximum < MAX_SIZE).then_some(info.maximum),
        granularity: info.granularity,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn export() -> Negotiated {
        Negotiated {
            size: 64 << 20,
            flags: ExportFlags(0x8005),
            framing: Framing::Extended,
            contexts: vec![("base:allocation".to_owned(), 0), ("qemu:allocation-depth".to_owned(), 1)],
            contexts_left_out: 2,
            block_sizes: Some(BlockSizes { minimum: 1, preferred: 4096, maximum: 33_554_432 }),
            name: Some("canonical".to_owned()),
            description: Some("a\u{1b}[31m disk\n".to_owned()),
            resize: Some(ResizeInfo { features: Features(0x8005), minimum: 0, maximum: 8 << 30, granularity: 512 }),
        }
    }

    #[test]
    fn the_table_has_a_line_for_each_thing_and_no_escape_sequences() {
        let uri: NbdUri = "nbd://localhost/x".parse().unwrap();
        let expected = "uri          nbd://localhost/x\n\
                        size         67108864 bytes (64MiB)\n\
                        flags        HAS_FLAGS SEND_FLUSH 0x8000\n\
                        framing      extended headers\n\
                        contexts     base:allocation qemu:allocation-depth and 2 more\n\
                        block sizes  minimum 1, preferred 4096, maximum 33554432\n\
                        resize       EXPLICIT QUERY 0x8000; minimum 0, maximum 8589934592, granularity 512\n\
                        name         canonical\n\
                        description  a [31m disk\n";
        assert_eq!(table(&uri, &export()), expected);
        let bare = Negotiated {
            size: 1000001,
            flags: ExportFlags(1),
            framing: Framing::Simple,
            contexts: Vec::new(),
            contexts_left_out: 0,
            block_sizes: None,
            name: Some("x".to_owned()),
            description: None,
            resize: None,
        };
        let expected = "uri          nbd://localhost/x\n\
                        size         1000001 bytes\n\
                        flags        HAS_FLAGS\n\
                        framing      simple replies\n\
                        contexts     none\n\
                        block sizes  not stated\n\
                        resize       not stated\n";
        assert_eq!(table(&uri, &bare), expected);
        let info = ResizeInfo { features: Features::NONE, minimum: 5, maximum: MAX_SIZE, granularity: 1 };
        let line = "resize       nothing; minimum 5, maximum not known, granularity 1\n";
        assert!(table(&uri, &Negotiated { resize: Some(info), ..bare }).ends_with(line));
    }

    #[test]
    fn the_json_has_every_key_and_sizes_in_bytes() {
        let uri: NbdUri = "nbd+unix:///x?socket=/s".parse().unwrap();
        let value: serde_json::Value = serde_json::from_str(&json(&uri, &export())).unwrap();
        let expected = serde_json::json!({
            "uri": "nbd+unix:///x?socket=/s", "export": "x", "size": 67_108_864,
            "flags": ["HAS_FLAGS", "SEND_FLUSH", "0x8000"], "flags_value": 0x8005, "framing": "extended",
            "contexts": ["base:allocation", "qemu:allocation-depth"],
            "block_sizes": { "minimum": 1, "preferred": 4096, "maximum": 33_554_432 },
            "name": "canonical", "description": "a\u{1b}[31m disk\n",
            "resize": {
                "features": ["EXPLICIT", "QUERY", "0x8000"], "features_value": 0x8005,
                "minimum": 0, "maximum": 8_589_934_592_u64, "granularity": 512,
            },
        });
        assert_eq!(value, expected);
    }
}

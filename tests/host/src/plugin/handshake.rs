//! The one line a plugin prints on stdout.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

/// The handshake line, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handshake {
    /// The line as printed, trimmed.
    pub line: String,
    pub core_version: u32,
    pub app_version: u32,
    pub network: String,
    pub address: String,
    pub transport: String,
    /// Fields after the transport (server certificate, broker multiplexing), if any.
    pub rest: Vec<String>,
}

impl Handshake {
    /// Parses and checks as a Nomad host does.
    pub fn parse(line: &str) -> Result<Handshake> {
        let line = line.trim();
        let fields: Vec<&str> = line.split('|').map(str::trim).collect();
        ensure!(fields.len() >= 4, "handshake with fewer than 4 fields: {line:?}");
        let shake = Handshake {
            line: line.to_owned(),
            core_version: fields[0].parse().with_context(|| format!("core version in {line:?}"))?,
            app_version: fields[1].parse().with_context(|| format!("app version in {line:?}"))?,
            network: fields[2].to_owned(),
            address: fields[3].to_owned(),
            transport: fields.get(4).copied().unwrap_or("netrpc").to_owned(),
            rest: fields.iter().skip(5).map(|f| (*f).to_owned()).collect(),
        };
        ensure!(
            shake.core_version == 1,
            "core protocol {} instead of 1",
            shake.core_version
        );
        ensure!(
            shake.app_version == 2,
            "app protocol {} instead of 2",
            shake.app_version
        );
        ensure!(shake.network == "unix", "network {:?} instead of unix", shake.network);
        ensure!(
            shake.transport == "grpc",
            "transport {:?} instead of grpc",
            shake.transport
        );
        Ok(shake)
    }

    pub fn socket(&self) -> PathBuf {
        PathBuf::from(&self.address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_with_and_without_trailing_separator() {
        let plain = Handshake::parse("1|2|unix|/tmp/p|grpc\n").expect("plain");
        assert_eq!((plain.address.as_str(), plain.rest.len()), ("/tmp/p", 0));
        assert_eq!(
            Handshake::parse("1|2|unix|/tmp/p|grpc|").expect("with separator").rest,
            [""]
        );
        assert!(Handshake::parse("1|2|unix").is_err());
        assert!(Handshake::parse("1|3|unix|/tmp/p|grpc").is_err());
    }
}

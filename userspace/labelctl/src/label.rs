//! `labelctl label`.

use std::io::{self, Write};

use anyhow::{Result, bail};
use clap::Subcommand;
use serde::Serialize;
use sigil_common::wire::option::LabelOption;

use crate::cli::{Format, Global};
use crate::output::{self, Answer, Table};

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Say what an option's bytes mean; exit 1 if they are no label
    Decode {
        /// The option in hexadecimal, from its type (86); blanks, colons and 0x are skipped
        #[arg(required = true, value_name = "HEX")]
        hex: Vec<String>,
    },
}

#[derive(Serialize)]
struct Decoded {
    doi: u32,
    scid: u32,
    snid: u32,
    auth: Option<Auth>,
}

#[derive(Serialize)]
struct Auth {
    key_id: u8,
    payload_covered: bool,
    segments: u8,
    seq: u32,
    icv: String,
}

pub(crate) fn run(args: &Args, global: &Global) -> Result<Answer> {
    let Command::Decode { hex: words } = &args.command;
    let bytes = bytes(&words.concat())?;
    let option = match LabelOption::parse(&bytes) {
        Ok(option) => option,
        Err(error) => {
            writeln!(io::stderr(), "labelctl: no label: {error}")?;
            return Ok(Answer::No);
        }
    };
    let decoded = Decoded {
        doi: u32::from_be_bytes(option.tag.doi),
        scid: option.tag.label.scid,
        snid: option.tag.label.snid,
        auth: option.auth.map(|auth| Auth {
            key_id: auth.key_id,
            payload_covered: auth.flags.payload_covered(),
            segments: auth.flags.segments(),
            seq: auth.seq_low,
            icv: hex(&auth.icv.to_bytes()),
        }),
    };
    if global.output == Format::Table {
        table(&decoded)?;
    } else {
        output::json(global.output, &decoded)?;
    }
    Ok(Answer::Yes)
}

fn table(decoded: &Decoded) -> Result<()> {
    let mut table = Table::new(&["FIELD", "VALUE"]);
    let mut row = |field: &str, value: String| table.row([field.to_owned(), value]);
    row("doi", format!("{:#010x}", decoded.doi));
    row("SnID", decoded.snid.to_string());
    row("ScID", decoded.scid.to_string());
    if let Some(auth) = &decoded.auth {
        row("key id", auth.key_id.to_string());
        row("payload", if auth.payload_covered { "covered" } else { "not covered" }.to_owned());
        row("segments", auth.segments.to_string());
        row("seq", format!("{} (low 32 bits)", auth.seq));
        row("icv", auth.icv.clone());
    } else {
        row("auth", "none, label only".to_owned());
    }
    table.print(&mut io::stdout().lock())?;
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 0xf]);
    digits.filter_map(|digit| char::from_digit(digit.into(), 16)).collect()
}

fn bytes(text: &str) -> Result<Vec<u8>> {
    let text = text.trim();
    let text = text.strip_prefix("0x").unwrap_or(text);
    let mut digits = Vec::with_capacity(text.len());
    for char in text.chars().filter(|char| !char.is_whitespace() && *char != ':') {
        let Some(digit) = char.to_digit(16).and_then(|digit| u8::try_from(digit).ok()) else {
            bail!("`{char}` is no hexadecimal digit");
        };
        digits.push(digit);
    }
    if digits.len() % 2 != 0 {
        bail!("{} hexadecimal digits make no whole bytes: a digit is missing", digits.len());
    }
    Ok(digits
        .chunks_exact(2)
        .map(|pair| pair.iter().fold(0, |byte, digit| byte << 4 | digit))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::bytes;

    #[test]
    fn hexadecimal_in_the_forms_that_tools_print() {
        for text in ["8614", "0x8614", "86:14", "86 14", "86\n14"] {
            assert_eq!(bytes(text).unwrap(), [0x86, 0x14], "{text:?}");
        }
        assert!(bytes("861").is_err());
        assert!(bytes("86é4").is_err());
    }
}

//! The schema and the compiler agree on what a document looks like, as far as a schema can say it.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::process::Command;

use sigil_policy::{XSD, compile};

/// Whether `xmllint` accepts the document; nothing where there is no `xmllint`.
fn valid(document: &str) -> Option<bool> {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let (schema, document) = (file("dsp.xsd", XSD), file("dsp.xml", document));
    let output = Command::new("xmllint")
        .arg("--noout")
        .arg("--schema")
        .args([schema, document])
        .output()
        .ok()?;
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!said.contains("Schemas parser error"), "{said}");
    Some(output.status.success())
}

fn agree(document: &str) {
    let compiles = compile("dsp.xml", document.as_bytes(), None).is_ok();
    if let Some(valid) = valid(document) {
        assert_eq!(valid, compiles, "{document}");
    }
}

#[test]
fn the_examples_are_valid() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    for entry in std::fs::read_dir(examples).unwrap() {
        let text = std::fs::read_to_string(entry.unwrap().path()).unwrap();
        assert!(compile("example", text.as_bytes(), None).is_ok());
        agree(&text);
    }
}

#[test]
fn both_refuse_the_same_shapes() {
    let zone = "<zone><ScID> 2 </ScID><name> web </name></zone>";
    let node = "<node><SnID>1</SnID><address>10.0.0.1</address></node>";
    for body in [
        "",
        "<zone/>",
        "<zone><ScID>0</ScID></zone>",
        "<zone><ScID>4294967296</ScID></zone>",
        "<zone><ScID>07</ScID></zone>",
        "<zone><ScID>3</ScID><name>3</name></zone>",
        "<zone><ScID>3</ScID><protection>encrypt</protection></zone>",
        "<zone><ScID>3</ScID><protection> integrity </protection></zone>",
        "<zone><ScID>3</ScID><code> signed </code></zone>",
        "<zone><ScID>3</ScID><name>n</name><protection>label</protection><code>any</code></zone>",
        "<zone><ScID>3</ScID><code>unsigned</code></zone>",
        "<zone x='y'><ScID>3</ScID></zone>",
        "<pair><ScID>web</ScID><ScID>2</ScID><protection>label</protection></pair>",
        "<pair><ScID>web</ScID><protection>label</protection></pair>",
        "<port><SnID>1</SnID><protocol>icmp</protocol><number>1</number><ScID>2</ScID></port>",
        "<port><SnID>1</SnID><protocol>sctp</protocol><number>65535</number><ScID>2</ScID></port>",
        "<port><SnID>1</SnID><protocol>tcp</protocol><number>65536</number><ScID>2</ScID></port>",
        "<perimeter><address>10.1.0.0/16</address><SnID>9</SnID><ScID>2</ScID></perimeter>",
        "<perimeter><address>10.1.0.0/33</address><SnID>9</SnID><ScID>2</ScID></perimeter>",
        "<PROCESS_class_rule><sSnID>*</sSnID><sScID>*</sScID><allow>FORK,EXECVE</allow></PROCESS_class_rule>",
        "<PROCESS_class_rule><sSnID>*</sSnID><sScID>*</sScID><allow>fork</allow></PROCESS_class_rule>",
        "<SOCKET_class_rule><sSnID>*</sSnID><sScID>*</sScID><tSnID>*</tSnID><allow>CREATE</allow></SOCKET_class_rule>",
        "<signer><name>ci</name><key>d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a</key><ScID>*</ScID></signer>",
        "<signer><name>ci</name><key> PUAXw+hDiVqStwqnTRt+vJyYLM8uxJaMwM1V8Sr0Zgw= </key><ScID>2</ScID><ScID>web</ScID><serial>4</serial></signer>",
        "<signer><name>ci</name><key>d75a980182b10ab7d54bfed3c964073a</key><ScID>*</ScID></signer>",
        "<signer><name>ci</name><key>d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a</key></signer>",
        "<signer><key>d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a</key><ScID>*</ScID></signer>",
        "<signer><name>ci</name><key>d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a</key><ScID>2</ScID><serial>0</serial></signer>",
        "<revoked><key>d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a</key></revoked>",
        "<revoked><signature>d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a</signature></revoked>",
        "<revoked/>",
        "<revoked><signature>me</signature></revoked>",
        "<unsigned><binaryScID>web</binaryScID></unsigned>",
        "<unsigned><parentScID>*</parentScID><deny>EXECVE</deny></unsigned>",
        "<unsigned><parentScID>2</parentScID></unsigned>",
        "<unsigned><binaryScID>*</binaryScID></unsigned>",
        "<unsigned><binaryScID>2</binaryScID><deny>EXECVE</deny></unsigned>",
        "<unsigned><deny>FORK</deny></unsigned>",
        "<RELABEL_class_rule><ownerScID>2</ownerScID><userScID>3</userScID></RELABEL_class_rule><zone><ScID>3</ScID></zone>",
        "<RELABEL_class_rule><name>n</name><ownerScID>2</ownerScID></RELABEL_class_rule>",
        "<RELABEL_class_rule><ownerScID>2</ownerScID><userScID>*</userScID></RELABEL_class_rule>",
        "<TRANSITION_class_rule><parentScID>*</parentScID><binaryScID>2</binaryScID><newScID>*</newScID></TRANSITION_class_rule>",
    ] {
        agree(&format!("<DSP cluster='lab' serial='1'>{zone}{node}{body}</DSP>"));
    }
    agree("<DSP cluster='lab' serial='0'/>");
    agree("<DSP cluster='lab'/>");
    agree("<DSP cluster='a b' serial='1'/>");
}

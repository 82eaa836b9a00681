//! Every diagnostic, as an operator sees it.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use miette::{GraphicalReportHandler, GraphicalTheme};
use sigil_policy::{MAX_BYTES, compile};

fn shown(document: &[u8], in_force: Option<u64>) -> String {
    let report = match compile("dsp.xml", document, in_force) {
        Ok(compiled) => compiled.warnings,
        Err(report) => report,
    };
    let handler =
        GraphicalReportHandler::new_themed(GraphicalTheme::unicode_nocolor()).with_width(100);
    let mut text = String::new();
    for diagnostic in &report.diagnostics {
        assert!(diagnostic.hint.is_some(), "no hint: {diagnostic}");
        handler.render_report(&mut text, diagnostic).unwrap();
    }
    text
}

/// A document around `body`, with two nodes and two zones at its end.
fn around(body: &str) -> String {
    format!(
        r#"<DSP cluster="lab" serial="7">
{body}
  <node><SnID> 1 </SnID><name> web1 </name><address> 10.77.0.1 </address></node>
  <node><SnID> 2 </SnID><name> db1 </name><address> 10.77.0.2 </address></node>
  <zone><ScID> 2 </ScID><name> web </name></zone>
  <zone><ScID> 10 </ScID><name> db </name></zone>
</DSP>
"#
    )
}

fn socket(ids: [&str; 4], verbs: &str) -> String {
    let [ssn, ssc, tsn, tsc] = ids;
    format!(
        "  <SOCKET_class_rule><sSnID>{ssn}</sSnID><sScID>{ssc}</sScID><tSnID>{tsn}</tSnID><tScID>{tsc}</tScID>{verbs}</SOCKET_class_rule>\n"
    )
}

const ALLOW: &str = "<allow>CREATE</allow>";
const DENY: &str = "<deny>CREATE</deny>";
const KEY: &str = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";

#[test]
fn not_even_a_document() {
    insta::assert_snapshot!("too_large", shown(&vec![b' '; MAX_BYTES + 1], None));
    insta::assert_snapshot!("encoding", shown(b"<DSP cluster=\"\xe9\"/>", None));
    insta::assert_snapshot!(
        "malformed",
        shown(b"<DSP cluster='lab' serial='1'>\n  <node><SnID>1</node>\n</DSP>", None)
    );
    insta::assert_snapshot!("root", shown(b"<dsp cluster='lab' serial='1'/>", None));
    insta::assert_snapshot!(
        "dtd",
        shown(b"<?xml version='1.0'?>\n<!DOCTYPE DSP [<!ENTITY a 'b'>]>\n<DSP/>", None)
    );
    insta::assert_snapshot!("depth", shown("<node>".repeat(40).as_bytes(), None));
    insta::assert_snapshot!(
        "entity",
        shown(around("<zone><ScID>3</ScID><name>&web;</name></zone>").as_bytes(), None)
    );
}

#[test]
fn a_long_start_tag() {
    let long = format!("<DSP cluster='{}' serial='1'/>", "x".repeat(5000));
    assert!(shown(long.as_bytes(), None).starts_with("dsp::tag"));
}

#[test]
fn shape() {
    for (name, body) in [
        (
            "unknown_element",
            "  <nodes/>\n  <zone><ScID>3</ScID><colour>red</colour></zone>\n  <node xmlns='u'/>",
        ),
        ("unknown_attribute", "  <zone id='3'><ScID x='y'>3</ScID></zone>"),
        ("repeated_element", "  <zone><ScID>3</ScID><ScID>4</ScID></zone>"),
        (
            "missing_element",
            "  <port><SnID>1</SnID></port>\n  <pair><ScID>2</ScID><protection>label</protection></pair>",
        ),
        (
            "stray_text",
            "  hello\n  <zone>3<ScID>3</ScID></zone>\n  <zone><ScID>4<!-- or --> 5</ScID></zone>",
        ),
        ("nested_text", "  <zone><ScID><b>3</b></ScID></zone>"),
        (
            "five_addresses",
            "  <node><SnID>3</SnID><address>10.0.0.1</address><address>10.0.0.2</address>\n    <address>10.0.0.3</address><address>10.0.0.4</address><address>10.0.0.5</address></node>",
        ),
        (
            "half_a_target",
            "  <SOCKET_class_rule><sSnID>1</sSnID><sScID>2</sScID><tSnID>2</tSnID><allow>CREATE</allow></SOCKET_class_rule>",
        ),
        (
            "no_verb",
            "  <NETWORK_class_rule><sSnID>1</sSnID><sScID>2</sScID><tSnID>2</tSnID><tScID>2</tScID></NETWORK_class_rule>",
        ),
    ] {
        insta::assert_snapshot!(name, shown(around(body).as_bytes(), None));
    }
    insta::assert_snapshot!("missing_attribute", shown(b"<DSP/>", None));
    insta::assert_snapshot!("bad_attributes", shown(b"<DSP cluster='a b' serial='seven'/>", None));
}

#[test]
fn values() {
    for (name, body) in [
        (
            "zero_id",
            "  <zone><ScID>0</ScID></zone>\n  <node><SnID>0</SnID><address>10.0.0.1</address></node>",
        ),
        (
            "numbers",
            "  <zone><ScID>4294967296</ScID></zone>\n  <zone><ScID>-1</ScID></zone>\n  <zone><ScID>007</ScID></zone>\n  <zone><ScID/></zone>",
        ),
        (
            "names",
            "  <zone><ScID>3</ScID><name>a b</name></zone>\n  <zone><ScID>4</ScID><name></name></zone>",
        ),
        (
            "addresses",
            "  <node><SnID>3</SnID><address>10.0.0.1/24</address><address>127.0.0.1</address><address>224.0.0.1</address></node>",
        ),
        (
            "ports",
            "  <port><SnID>1</SnID><protocol>icmp</protocol><number>8</number><ScID>2</ScID></port>\n  <port><SnID>1</SnID><protocol>tpc</protocol><number>65536</number><ScID>*</ScID></port>",
        ),
        (
            "protections",
            "  <zone><ScID>3</ScID><protection>encrypt</protection></zone>\n  <zone><ScID>4</ScID><protection>integrty</protection></zone>",
        ),
        (
            "perimeter",
            "  <perimeter><address>10.77.0.1</address><SnID>900</SnID><ScID>2</ScID></perimeter>\n  <perimeter><address>10.77.9.9/24</address><SnID>1</SnID><ScID>kernel</ScID></perimeter>\n  <port><SnID>900</SnID><protocol>tcp</protocol><number>1</number><ScID>2</ScID></port>",
        ),
        (
            "kernel_zone",
            "  <zone><ScID>4294967295</ScID><name>root</name></zone>\n  <node><SnID>3</SnID><address>10.0.0.1</address><default>kernel</default></node>",
        ),
    ] {
        insta::assert_snapshot!(name, shown(around(body).as_bytes(), None));
    }
    let undeclared = socket(["1", "wbe", "3", "99"], ALLOW);
    insta::assert_snapshot!("undeclared", shown(around(&undeclared).as_bytes(), None));
    let permissions = socket(["1", "2", "2", "10"], "<allow>CREAT, FLY</allow><deny></deny>");
    insta::assert_snapshot!("permissions", shown(around(&permissions).as_bytes(), None));
    insta::assert_snapshot!("serial", shown(around("").as_bytes(), Some(7)));
}

#[test]
fn duplicates() {
    let body = "  <node><SnID>1</SnID><name>web1</name><address>10.77.0.1</address></node>
  <zone><ScID>2</ScID><name>web</name></zone>
  <pair><ScID>2</ScID><ScID>10</ScID><protection>label</protection></pair>
  <pair><ScID>db</ScID><ScID>web</ScID><protection>label</protection></pair>
  <port><SnID>1</SnID><protocol>tcp</protocol><number>80</number><ScID>2</ScID></port>
  <port><SnID>web1</SnID><protocol>tcp</protocol><number>80</number><ScID>10</ScID></port>
  <perimeter><address>10.0.0.0/8</address><SnID>900</SnID><ScID>2</ScID></perimeter>
  <perimeter><address>10.0.0.0/8</address><SnID>901</SnID><ScID>2</ScID></perimeter>";
    insta::assert_snapshot!("duplicates", shown(around(body).as_bytes(), None));
}

#[test]
fn rules_together() {
    let two = |a: [&str; 4], first: &str, b: [&str; 4], second: &str| {
        socket(a, first) + &socket(b, second)
    };
    for (name, body) in [
        ("contradiction", two(["1", "2", "*", "10"], ALLOW, ["web1", "web", "*", "db"], DENY)),
        ("contradiction_in_one", socket(["1", "2", "2", "10"], "<allow>CREATE</allow><deny>SEND CREATE</deny>")),
        ("repeated_rule", two(["1", "2", "2", "10"], ALLOW, ["web1", "web", "db1", "db"], ALLOW)),
        ("overruled", two(["*", "2", "2", "10"], ALLOW, ["*", "*", "2", "10"], DENY) + &two(["1", "2", "2", "10"], DENY, ["2", "2", "2", "10"], DENY)),
        ("overruled_by_equals", two(["1", "*", "2", "10"], DENY, ["2", "*", "2", "10"], DENY) + &socket(["*", "2", "2", "10"], ALLOW)),
        ("no_effect", two(["1", "2", "2", "10"], "<allow>CREATE BIND LISTEN</allow>", ["2", "2", "1", "10"], "<allow>CONNECT SEND</allow>")),
        ("perimeter_rules", "  <perimeter><address>10.9.0.1</address><SnID>900</SnID><ScID>2</ScID></perimeter>\n".to_owned()
            + &socket(["900", "10", "1", "2"], ALLOW)
            + "  <PROCESS_class_rule><sSnID>900</sSnID><sScID>2</sScID><allow>FORK</allow></PROCESS_class_rule>"),
        ("kernel_elsewhere", "  <node><SnID>3</SnID><address>10.9.0.1</address><kernel>db</kernel></node>\n".to_owned()
            + &socket(["3", "kernel", "1", "2"], ALLOW)),
        ("transitions", "  <TRANSITION_class_rule><parentScID>2</parentScID><binaryScID>*</binaryScID><newScID>2</newScID></TRANSITION_class_rule>
  <TRANSITION_class_rule><parentScID>*</parentScID><binaryScID>10</binaryScID><newScID>10</newScID></TRANSITION_class_rule>
  <TRANSITION_class_rule><parentScID>web</parentScID><binaryScID>*</binaryScID><newScID>10</newScID></TRANSITION_class_rule>
  <TRANSITION_class_rule><parentScID>web</parentScID><binaryScID>web</binaryScID><newScID>*</newScID></TRANSITION_class_rule>".to_owned()),
        ("signers", format!("  <signer><name> a b </name><key> {KEY} </key><ScID> 2 </ScID></signer>
  <signer><name> ci </name><key> d75a98 </key><ScID> kernel </ScID></signer>
  <signer><name> ci </name><key> {KEY} </key><ScID> wbe </ScID></signer>
  <signer><name> build </name><key> {KEY} </key><ScID> * </ScID></signer>
  <signer><name> again </name><key> 11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo= </key><ScID> * </ScID></signer>
  <signer><name> zero </name><key> {} </key><ScID> * </ScID><serial> 0 </serial></signer>", "0".repeat(64))),
        ("revocations", "  <revoked/>\n  <revoked><key> x </key><signature> y </signature></revoked>".to_owned()),
        ("revoked_signer", format!("  <signer><name> ci </name><key> {KEY} </key><ScID> * </ScID></signer>
  <revoked><key> {KEY} </key></revoked>
  <unsigned><deny> EXECVE </deny></unsigned>")),
        ("unsigned", "  <unsigned/>
  <unsigned><parentScID> web </parentScID><binaryScID> * </binaryScID></unsigned>
  <unsigned><binaryScID> db </binaryScID><deny> EXECVE </deny></unsigned>
  <unsigned><parentScID> web </parentScID><binaryScID> db </binaryScID></unsigned>
  <unsigned><parentScID> 2 </parentScID><deny> EXECVE </deny></unsigned>
  <unsigned><deny> FORK, EXECVE </deny></unsigned>".to_owned()),
        ("code", "  <zone><ScID> 77 </ScID><code> signed </code></zone>
  <zone><ScID> 78 </ScID><code> unsigned </code></zone>".to_owned()),
        ("unsigned_without_signer", "  <unsigned><deny> EXECVE </deny></unsigned>".to_owned()),
        ("unsigned_not_said", format!("  <signer><name> ci </name><key> {KEY} </key><ScID> * </ScID></signer>
  <unsigned><parentScID> web </parentScID><deny> EXECVE </deny></unsigned>")),
        ("overruled_unsigned", format!("  <signer><name> ci </name><key> {KEY} </key><ScID> * </ScID></signer>
  <unsigned><binaryScID> db </binaryScID></unsigned>
  <unsigned><parentScID> web </parentScID><deny> EXECVE </deny></unsigned>
  <unsigned><parentScID> db </parentScID><binaryScID> web </binaryScID></unsigned>")),
        ("relabels", "  <RELABEL_class_rule><ownerScID>web</ownerScID><userScID>*</userScID></RELABEL_class_rule>
  <RELABEL_class_rule><ownerScID>kernel</ownerScID><userScID>web</userScID></RELABEL_class_rule>
  <RELABEL_class_rule><ownerScID>web</ownerScID><userScID>2</userScID></RELABEL_class_rule>
  <RELABEL_class_rule><ownerScID>web</ownerScID><userScID>db</userScID></RELABEL_class_rule>
  <RELABEL_class_rule><ownerScID>2</ownerScID><userScID>10</userScID></RELABEL_class_rule>".to_owned()),
        ("overruled_transition", "  <TRANSITION_class_rule><parentScID>2</parentScID><binaryScID>*</binaryScID><newScID>2</newScID></TRANSITION_class_rule>
  <TRANSITION_class_rule><parentScID>2</parentScID><binaryScID>2</binaryScID><newScID>10</newScID></TRANSITION_class_rule>
  <TRANSITION_class_rule><parentScID>2</parentScID><binaryScID>10</binaryScID><newScID>10</newScID></TRANSITION_class_rule>".to_owned()),
    ] {
        insta::assert_snapshot!(name, shown(around(&body).as_bytes(), None));
    }
    let nothing =
        format!("<DSP cluster='lab' serial='1'>\n{}</DSP>", socket(["*", "*", "*", "*"], ALLOW));
    insta::assert_snapshot!("nothing_declared", shown(nothing.as_bytes(), None));
}

#[test]
fn a_hundred_are_shown_and_the_others_counted() {
    let report = compile("dsp.xml", around(&"<nodes/>".repeat(150)).as_bytes(), None).unwrap_err();
    assert_eq!((report.diagnostics.len(), report.more_errors), (100, 50));
    assert!(
        report
            .to_string()
            .starts_with("dsp.xml:2:1: error: <DSP> has no element <nodes> (did you mean <node>?)")
    );
}

// The smallest module in Rust: denies telnet (TCP port 23).

#![no_std]

include!(concat!(env!("CULVERT_SDK"), "/culvert.rs"));

const TCP: u8 = 6;
const TELNET: u16 = 23;

fn configure(_: &[u8]) -> Result<(), &'static str> {
    Ok(())
}

fn evaluate(flow: &Flow) -> Verdict {
    if flow.protocol == TCP && flow.dst_port == TELNET { Verdict::Deny } else { Verdict::Pass }
}

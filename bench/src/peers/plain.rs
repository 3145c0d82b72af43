//! No tunnel at all: what the cable and both ends' stacks carry.

use anyhow::Result;

use super::ground::BRIDGE;
use super::{Ground, INNER, OUTER, System, Tunnel, Underlay};

pub struct Plain {
    pub name: String,
    pub outer_mtu: u32,
}

impl System for Plain {
    fn name(&self) -> &str {
        &self.name
    }

    fn outer_mtu(&self) -> u32 {
        self.outer_mtu
    }

    fn cipher(&self) -> &'static str {
        "none"
    }

    fn version(&self) -> String {
        format!("Linux {}", std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim())
    }

    fn carries_ethernet(&self) -> bool {
        true
    }

    fn start(&self, underlay: &Underlay) -> Result<Tunnel> {
        if underlay.ground() == Ground::Bridged {
            for netns in [&underlay.a, &underlay.b] {
                netns.run(&format!("ip link set eth0 master {BRIDGE}"))?;
            }
            return Ok(Tunnel { processes: Vec::new(), target: INNER[1].into(), link: "eth0".into() });
        }
        Ok(Tunnel { processes: Vec::new(), target: OUTER[1].into(), link: "eth0".into() })
    }
}

//! The text by which PMI tells MPI which ranks share a host.

use std::fmt::Write as _;

/// Returns the value of `PMI_process_mapping`. `hosts` has the number of each rank's host; hosts are numbered in the
/// order of their first ranks. The value is a list of runs of ranks, each as (first host, number of hosts, ranks per
/// host).
pub(crate) fn mapping(hosts: &[u32]) -> String {
    let mut runs: Vec<(u32, u32, u32)> = Vec::new();
    let mut rest = hosts;
    while let Some(host) = rest.first() {
        let here = rest.iter().take_while(|h| *h == host).count();
        rest = &rest[here..];
        let here = here as u32;
        match runs.last_mut() {
            Some((first, count, each)) if *each == here && *first + *count == *host => *count += 1,
            _ => runs.push((*host, 1, here)),
        }
    }
    let mut text = "(vector".to_owned();
    for (first, count, each) in runs {
        // Writing to a string never fails.
        let _ = write!(text, ",({first},{count},{each})");
    }
    text + ")"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_grouped_into_runs() {
        assert_eq!(mapping(&[0, 0]), "(vector,(0,1,2))");
        assert_eq!(mapping(&[0, 1, 2]), "(vector,(0,3,1))");
        assert_eq!(mapping(&[0, 0, 1, 1, 2, 2]), "(vector,(0,3,2))");
        assert_eq!(mapping(&[0, 1, 0, 1]), "(vector,(0,2,1),(0,2,1))");
        assert_eq!(mapping(&[0, 0, 0, 1]), "(vector,(0,1,3),(1,1,1))");
    }
}

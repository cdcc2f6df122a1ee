//! Makes a list that fails as short as it can: of faults, of operations, of clients.
//!
//! The runner of seeds calls it with a simulation as the question. It is ddmin (Zeller and Hildebrandt, "Simplifying and
//! isolating failure-inducing input", 2002): leave out large parts, then smaller ones, then single items.
//! Holds: what is returned failed; items keep their order; the question is asked at most `runs_max` times.
//! Not here: what an item is. A question that does not always answer the same for the same list finds something larger.

/// The shortest list found.
#[derive(Debug, PartialEq, Eq)]
pub struct Shrunk<T> {
    pub list: Vec<T>,
    /// How often the question was asked.
    pub runs: usize,
    /// Without any one of its items it no longer fails; otherwise the budget was used up before that was known.
    pub minimal: bool,
}

/// Leaves out of `list`, which fails, whatever it fails without.
pub fn shrink<T: Clone>(list: &[T], runs_max: usize, mut fails: impl FnMut(&[T]) -> bool) -> Shrunk<T> {
    let mut list = list.to_vec();
    let mut runs = 0;
    let mut parts = 1;
    while !list.is_empty() {
        let len = list.len().div_ceil(parts);
        let mut shorter = None;
        // From the back: what comes last is needed least often, and leaves what happened before it as it was.
        for start in (0..list.len()).step_by(len).rev() {
            if runs == runs_max {
                return Shrunk { list, runs, minimal: false };
            }
            let end = list.len().min(start + len);
            let rest: Vec<T> = list[..start].iter().chain(&list[end..]).cloned().collect();
            runs += 1;
            if fails(&rest) {
                shorter = Some(rest);
                break;
            }
        }
        match shorter {
            Some(rest) => {
                list = rest;
                parts = parts.saturating_sub(1).clamp(1, list.len().max(1));
            }
            None if len == 1 => return Shrunk { list, runs, minimal: true },
            None => parts = (parts * 2).min(list.len()),
        }
    }
    Shrunk { list, runs, minimal: true }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_needed_goes() {
        let list: Vec<u32> = (0..100).collect();
        let needs = |wanted: &'static [u32]| move |list: &[u32]| wanted.iter().all(|w| list.contains(w));
        for wanted in [&[7][..], &[0, 99], &[3, 4, 50, 77], &[]] {
            let found = shrink(&list, 1000, needs(wanted));
            assert_eq!((found.list.as_slice(), found.minimal), (wanted, true));
            assert!(found.runs < 200, "{} runs for {wanted:?}", found.runs);
        }
    }

    #[test]
    fn order_matters_and_is_kept() {
        let found = shrink(&[5, 1, 4, 2, 3, 0], 1000, |list| list.windows(2).any(|pair| pair[0] > pair[1]));
        assert_eq!(found.list.len(), 2);
        assert!(found.list[0] > found.list[1]);
    }

    #[test]
    fn the_budget_is_kept_and_the_result_fails() {
        let list: Vec<u32> = (0..1000).collect();
        let fails = |list: &[u32]| list.iter().filter(|n| *n % 100 == 0).count() == 10;
        let mut asked = 0;
        let found = shrink(&list, 40, |list| {
            asked += 1;
            fails(list)
        });
        assert_eq!((asked, found.runs, found.minimal), (40, 40, false));
        assert!(fails(&found.list) && found.list.len() < 1000);
        assert_eq!(shrink(&list, 0, fails).list, list);
    }

    #[test]
    fn a_list_that_needs_all_stays() {
        let found = shrink(&[1, 2, 3, 4], 1000, |list| list.len() == 4);
        assert_eq!((found.list, found.minimal), (vec![1, 2, 3, 4], true));
    }
}

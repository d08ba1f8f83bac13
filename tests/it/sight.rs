//! What there is on the test host: the agent's processes, control groups and files, and which of them should not be there.

use std::collections::BTreeSet;

use crate::host;

/// The agent's state directory.
pub(crate) const STATE: &str = "/var/lib/tinderbox";

/// What there is on the host.
pub(crate) struct Sight {
    /// Processes of the agent's user: number, parent, state, name, control group.
    processes: Vec<Vec<String>>,
    /// Control groups below the agent's own.
    pub(crate) groups: Vec<String>,
    /// Everything in the agent's state directory, by its path in there.
    pub(crate) files: BTreeSet<String>,
}

impl Sight {
    pub(crate) fn of_the_host() -> Self {
        let look = format!(
            "ps -U tinderbox -o pid=,ppid=,stat=,comm=,cgroup=; echo --; \
             find /sys/fs/cgroup/system.slice/tinderbox-agent.service -mindepth 1 -type d; echo --; \
             find {STATE} -mindepth 1 -printf '%P\\n'"
        );
        // A file may go while find looks: that is no error.
        let seen = host::run(&["sh", "-c", &look]).stdout;
        let parts: Vec<_> = seen.split("--\n").collect();
        let [processes, groups, files] = parts[..] else { panic!("{seen:?}") };
        let words = |line: &str| line.split_whitespace().map(str::to_owned).collect();
        let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
        Self {
            processes: processes.lines().map(words).collect(),
            groups: lines(groups),
            files: lines(files).into_iter().collect(),
        }
    }

    /// Processes that are neither the agent, nor a VMM of its own, nor the resident machine.
    pub(crate) fn strangers(&self) -> Vec<String> {
        let known = |words: &[String], parent: &str, name: &str, unit: &str| {
            let [_, its_parent, state, its_name, group] = words else { return false };
            (its_parent.as_str(), its_name.as_str()) == (parent, name)
                && !state.starts_with('Z')
                && group.ends_with(unit)
        };
        let is_agent = |words: &&Vec<String>| known(words, "1", "host-agent", "/tinderbox-agent.service");
        let Some(agent) = self.processes.iter().find(is_agent) else { return vec!["no agent".into()] };
        let is_stranger = |words: &&Vec<String>| {
            !is_agent(words)
                && !known(words, "1", "vmm", "/tinderbox-resident.service")
                && !known(words, &agent[0], "vmm", "/tinderbox-agent.service")
        };
        self.processes.iter().filter(is_stranger).map(|words| words.join(" ")).collect()
    }

    /// Files that are there for a moment only.
    pub(crate) fn unfinished(&self) -> Vec<String> {
        // What it consists of is in chunks.
        let is_whole = |dir: &str| self.files.contains(&format!("snapshots/{dir}/meta.json"));
        let is_unfinished = |file: &&String| match file.split('/').collect::<Vec<_>>()[..] {
            ["builds", _, ..] => true,
            // Hexadecimal digits; what is made or deleted has a name with a dash.
            ["snapshots", dir, ..] => dir.contains('-') || !is_whole(dir),
            [.., name] => {
                name.ends_with(".new")
                    || name.ends_with(".part")
                    || name.contains('#')
                    || name.starts_with('.')
            }
            [] => false,
        };
        self.files.iter().filter(is_unfinished).cloned().collect()
    }
}

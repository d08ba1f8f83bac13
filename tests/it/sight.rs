//! What there is on the test host: our processes, control groups and files, and which of them should not be there.

use std::collections::BTreeSet;

use crate::host;

/// The agent's state directory.
pub(crate) const STATE: &str = "/var/lib/tinderbox";

const GROUPS: &str = "/sys/fs/cgroup/system.slice";
const SANDBOXES: &str = "/sys/fs/cgroup/system.slice/tinderbox-launcher.service/sandboxes";

/// Where the agent and its helpers are.
const AGENT_GROUP: &str = "/tinderbox-agent.service";

/// What there is on the host.
pub(crate) struct Sight {
    /// Processes of our services: number, parent, state, name, control group.
    processes: Vec<Vec<String>>,
    /// Control groups below the agent's own, and those of sandboxes.
    groups: Vec<String>,
    /// Everything in the agent's state directory, by its path in there.
    pub(crate) files: BTreeSet<String>,
}

impl Sight {
    pub(crate) fn of_the_host() -> Self {
        let look = format!(
            "ps -e -o pid=,ppid=,stat=,comm=,cgroup= | grep -E '/tinderbox-(agent|launcher|resident)'; echo --; \
             find {GROUPS}/tinderbox-agent.service {SANDBOXES} -mindepth 1 -type d; echo --; \
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

    /// Processes that are none of: agent, launcher, a VMM that it has started for this agent, resident machine.
    pub(crate) fn strangers(&self) -> Vec<String> {
        let the_one = |name, group| self.processes.iter().find(|words| is_known(words, "1", name, group));
        let (agent, launcher) =
            (the_one("host-agent", AGENT_GROUP), the_one("launcher", "/tinderbox-launcher.service/launcher"));
        let (Some(agent), Some(launcher)) = (agent, launcher) else {
            return vec!["no agent, or no launcher".into()];
        };
        let is_stranger = |words: &&Vec<String>| {
            let sandbox = words[4].rsplit_once('/').filter(|(group, _)| group.ends_with("/sandboxes"));
            let is_vmm = sandbox.is_some_and(|_| is_known(words, &launcher[0], "vmm", ""));
            let is_resident = is_known(words, "1", "vmm", "/tinderbox-resident.service");
            ![agent, launcher].contains(words) && !is_vmm && !is_resident
        };
        self.processes.iter().filter(is_stranger).map(|words| words.join(" ")).collect()
    }

    /// Control groups with nothing in them.
    pub(crate) fn empty_groups(&self) -> Vec<String> {
        let has_process = |group: &String| {
            let Some((_, name)) = group.split_once("/sys/fs/cgroup") else { return false };
            self.processes.iter().any(|words| words[4].ends_with(name))
        };
        self.groups.iter().filter(|group| !has_process(group)).cloned().collect()
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

fn is_known(words: &[String], parent: &str, name: &str, group: &str) -> bool {
    let [_, its_parent, state, its_name, its_group] = words else { return false };
    (its_parent.as_str(), its_name.as_str()) == (parent, name)
        && !state.starts_with('Z')
        && its_group.ends_with(group)
}

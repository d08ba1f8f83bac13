//! In which order resources come: each behind those that it refers to.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::{scope::references, template::Resource};

/// The logical ids in an order in which each comes behind what it needs, and otherwise by name.
///
/// # Errors
/// Those that need each other in a circle.
pub(crate) fn order(
    resources: &BTreeMap<String, Resource>,
    stand_ins: &BTreeMap<String, String>,
) -> Result<Vec<String>, Vec<String>> {
    let mut left: BTreeMap<&str, BTreeSet<&str>> =
        resources.iter().map(|(id, resource)| (id.as_str(), needs(resource, resources, stand_ins))).collect();
    let mut order = Vec::with_capacity(left.len());
    while !left.is_empty() {
        let ready: Vec<_> = left.iter().filter(|(_, needs)| needs.is_empty()).map(|(id, _)| *id).collect();
        if ready.is_empty() {
            return Err(left.into_keys().map(str::to_owned).collect());
        }
        for id in ready {
            left.remove(id);
            for needs in left.values_mut() {
                needs.remove(id);
            }
            order.push(id.to_owned());
        }
    }
    Ok(order)
}

/// Which other resources one names. A resource that names itself is a circle of one.
fn needs<'a>(
    resource: &'a Resource,
    all: &'a BTreeMap<String, Resource>,
    stand_ins: &'a BTreeMap<String, String>,
) -> BTreeSet<&'a str> {
    let mut named = references(&Value::Object(resource.properties.clone()));
    named.extend(resource.depends_on.iter().cloned());
    let find = |name: &String| {
        let base = name.split('.').next().unwrap_or_default();
        let id = stand_ins.get(name).map_or(base, String::as_str);
        all.get_key_value(id).map(|(id, _)| id.as_str())
    };
    named.iter().filter_map(find).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn resources(edges: &[(usize, usize)], count: usize) -> BTreeMap<String, Resource> {
        let mut all: BTreeMap<String, Resource> =
            (0..count).map(|id| (format!("R{id}"), Resource::default())).collect();
        for (from, to) in edges {
            let properties = &mut all.get_mut(&format!("R{from}")).unwrap().properties;
            properties.insert(format!("P{to}"), json!({ "Fn::Sub": format!("${{R{to}.Arn}}") }));
        }
        all
    }

    #[test]
    fn what_is_referred_to_comes_first() {
        let mut all = resources(&[(0, 2), (2, 1)], 3);
        assert_eq!(order(&all, &BTreeMap::new()).unwrap(), ["R1", "R2", "R0"]);
        all.get_mut("R1").unwrap().depends_on.insert("R0".to_owned());
        assert_eq!(order(&all, &BTreeMap::new()).unwrap_err(), ["R0", "R1", "R2"]);
    }

    #[test]
    fn a_name_with_a_dot_may_stand_for_another_resource() {
        let mut all = resources(&[], 3);
        let properties = &mut all.get_mut("R0").unwrap().properties;
        properties.insert("P".to_owned(), json!({ "Ref": "R1.Alias" }));
        let stand_ins = [("R1.Alias".to_owned(), "R2".to_owned())].into();
        assert_eq!(order(&all, &stand_ins).unwrap(), ["R1", "R2", "R0"]);
    }

    proptest! {
        #[test]
        fn an_order_keeps_every_reference_or_there_is_a_circle(edges in prop::collection::vec((0..8_usize, 0..8_usize), 0..14)) {
            match order(&resources(&edges, 8), &BTreeMap::new()) {
                Ok(order) => {
                    prop_assert_eq!(order.len(), 8);
                    let at = |id: usize| order.iter().position(|found| *found == format!("R{id}")).unwrap();
                    for (from, to) in edges {
                        prop_assert!(at(to) < at(from));
                    }
                }
                Err(circle) => prop_assert!(!circle.is_empty()),
            }
        }
    }
}

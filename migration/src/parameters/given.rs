//! Parameters and capabilities as a client gives them: some of them, and for one migration alone.

use serde_json::{Map, Value};

use super::{Capability, Parameters};

/// New values for some of the parameters, as a client gives them: the others stay unchanged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Given(Map<String, Value>);

impl Given {
    /// # Errors
    /// When a member is no parameter, or its value is not of the parameter's type.
    pub fn new(members: Map<String, Value>) -> Result<Self, serde_json::Error> {
        serde_json::from_value::<Parameters>(Value::Object(members.clone())).map(|_| Given(members))
    }

    /// `present` with these values replaced.
    ///
    /// # Panics
    /// Never: each member has been read as a parameter.
    #[must_use]
    pub fn over(&self, present: &Parameters) -> Parameters {
        let mut all = serde_json::to_value(present).expect("parameters are plain JSON");
        if let Value::Object(members) = &mut all {
            members.extend(self.0.clone());
        }
        serde_json::from_value(all).expect("each member was read as a parameter before")
    }
}

/// Settings given to `migrate`, for that migration alone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnSettings {
    /// Override the process's parameters.
    pub parameters: Given,
    /// Override the process's capabilities; the last one for a capability counts.
    pub capabilities: Vec<(Capability, bool)>,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn given(value: Value) -> Given {
        let Value::Object(members) = value else { panic!("{value} is no object") };
        Given::new(members).unwrap()
    }

    #[test]
    fn what_is_given_changes_nothing_else() {
        let present = Parameters { downtime_limit: 7, rehearsal: false, ..Parameters::default() };
        let all = given(json!({ "max-bandwidth": 1 << 20, "x-ferry-handshake": "pong" })).over(&present);
        assert_eq!((all.max_bandwidth, all.downtime_limit, all.rehearsal), (1 << 20, 7, false));
        assert_eq!(all.handshake, Some(crate::Handshake::Pong));
        assert_eq!(Given::default().over(&present), present);
        for bad in [json!({ "speed": 1 }), json!({ "max-bandwidth": "fast" })] {
            assert!(Given::new(bad.as_object().unwrap().clone()).is_err(), "{bad}");
        }
    }
}

//! Roles of a membership and what each may do: the one table that every route asks.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::ApiError;

/// What a membership lets its user do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Everything, memberships of other owners included.
    Owner,
    /// Create, read, update, delete.
    Admin,
    /// Read, and create: one's own context, devices and licence session.
    Member,
    /// Read.
    Viewer,
}

/// What a request is about to do with the tenant's data. Writing one's own context counts as `Create`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Create,
    Read,
    Update,
    Delete,
    /// What only an owner does, such as deleting the tenant.
    Own,
}

impl Role {
    /// Passes if the role allows the action.
    ///
    /// # Errors
    /// 403 `forbidden` else; `read_only` where a viewer would write what is his own.
    pub fn may(self, action: Action) -> Result<(), ApiError> {
        let allowed = match self {
            Role::Owner => true,
            Role::Admin => action != Action::Own,
            Role::Member => matches!(action, Action::Read | Action::Create),
            Role::Viewer => action == Action::Read,
        };
        if allowed {
            Ok(())
        } else {
            // Its own code: a viewer's device goes on receiving, and says that it only reads.
            let read_only = self == Role::Viewer && action == Action::Create;
            Err(ApiError::Forbidden {
                code: if read_only { "read_only" } else { "forbidden" },
                message: format!("the role {self} does not allow to {action}"),
            })
        }
    }

    /// Passes if the role may do that with what is the tenant's as a whole, not one's own: only owners and admins.
    ///
    /// # Errors
    /// 403 `forbidden` else.
    pub fn may_manage(self, action: Action) -> Result<(), ApiError> {
        match self {
            Role::Owner | Role::Admin => self.may(action),
            Role::Member | Role::Viewer => Err(ApiError::Forbidden {
                code: "forbidden",
                message: format!("the role {self} does not manage the tenant"),
            }),
        }
    }

    /// The role's name in claims and tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Owner => "owner",
            Role::Admin => "admin",
            Role::Member => "member",
            Role::Viewer => "viewer",
        }
    }
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Role {
    type Err = String;

    fn from_str(text: &str) -> Result<Role, String> {
        match text {
            "owner" => Ok(Role::Owner),
            "admin" => Ok(Role::Admin),
            "member" => Ok(Role::Member),
            "viewer" => Ok(Role::Viewer),
            _ => Err(format!(
                "unknown role {text:?}, expected owner, admin, member or viewer"
            )),
        }
    }
}

impl std::fmt::Display for Action {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Action::Create => "create",
            Action::Read => "read",
            Action::Update => "update",
            Action::Delete => "delete",
            Action::Own => "act as an owner",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_role_may_what_the_table_says() {
        let allowed = |role: Role| {
            [
                Action::Create,
                Action::Read,
                Action::Update,
                Action::Delete,
                Action::Own,
            ]
            .map(|action| role.may(action).is_ok())
        };
        assert_eq!(allowed(Role::Owner), [true; 5]);
        assert_eq!(allowed(Role::Admin), [true, true, true, true, false]);
        assert_eq!(allowed(Role::Member), [true, true, false, false, false]);
        assert_eq!(allowed(Role::Viewer), [false, true, false, false, false]);
    }
}

//! Actions, and the roles that may perform each.
//!
//! Always: the table is SPIRE's default policy for SPIRE's methods, so that its agents, command line
//! and API clients find what they expect; an action is one RPC.
//!
//! Not here: roles of human operators.

/// What a caller is, as far as policy is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Connected to the private Unix socket.
    Local,
    /// Holds an X.509-SVID whose entry is marked `admin`.
    Admin,
    /// An attested agent with its current SVID.
    Agent,
    /// Holds an X.509-SVID whose entry is marked `downstream`.
    Downstream,
    /// Whoever can connect.
    Anyone,
}

const ADMINS: &[Role] = &[Role::Local, Role::Admin];
const ADMINS_AND_AGENTS: &[Role] = &[Role::Local, Role::Admin, Role::Agent];
const LOCAL: &[Role] = &[Role::Local];
const AGENTS: &[Role] = &[Role::Agent];
const ANYONE: &[Role] = &[Role::Anyone];

macro_rules! actions {
    ($($(#[$doc:meta])* $variant:ident = $name:literal, $roles:ident;)*) => {
        /// One thing a caller can ask for.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Action { $($(#[$doc])* $variant,)* }

        impl Action {
            /// Every action, in order.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// The name that logs and errors use.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// Who may.
            #[must_use]
            pub const fn roles(self) -> &'static [Role] {
                match self { $(Self::$variant => $roles,)* }
            }
        }
    };
}

actions! {
    /// Count agents.
    CountAgents = "agent.CountAgents", ADMINS;
    /// List agents.
    ListAgents = "agent.ListAgents", ADMINS;
    /// Show an agent.
    GetAgent = "agent.GetAgent", ADMINS;
    /// Evict an agent.
    DeleteAgent = "agent.DeleteAgent", ADMINS;
    /// Ban an agent.
    BanAgent = "agent.BanAgent", ADMINS;
    /// Attest a node.
    AttestAgent = "agent.AttestAgent", ANYONE;
    /// Renew an agent's SVID.
    RenewAgent = "agent.RenewAgent", AGENTS;
    /// Make a join token.
    CreateJoinToken = "agent.CreateJoinToken", ADMINS;
    /// Report what an agent serves.
    PostStatus = "agent.PostStatus", AGENTS;
    /// Count entries.
    CountEntries = "entry.CountEntries", ADMINS;
    /// List entries.
    ListEntries = "entry.ListEntries", ADMINS;
    /// Show an entry.
    GetEntry = "entry.GetEntry", ADMINS;
    /// Create entries.
    BatchCreateEntry = "entry.BatchCreateEntry", ADMINS;
    /// Change entries.
    BatchUpdateEntry = "entry.BatchUpdateEntry", ADMINS;
    /// Delete entries.
    BatchDeleteEntry = "entry.BatchDeleteEntry", ADMINS;
    /// Read the entries that the calling agent may serve.
    GetAuthorizedEntries = "entry.GetAuthorizedEntries", AGENTS;
    /// The same, in pages.
    SyncAuthorizedEntries = "entry.SyncAuthorizedEntries", AGENTS;
    /// Read the trust bundle.
    GetBundle = "bundle.GetBundle", ANYONE;
    /// Count bundles, list federated ones.
    CountBundles = "bundle.CountBundles", ADMINS;
    /// Read a federated bundle.
    GetFederatedBundle = "bundle.GetFederatedBundle", ADMINS_AND_AGENTS;
    /// Mint an X.509-SVID without an entry.
    MintX509Svid = "svid.MintX509SVID", ADMINS;
    /// Mint a JWT-SVID without an entry.
    MintJwtSvid = "svid.MintJWTSVID", ADMINS;
    /// Issue X.509-SVIDs by entry.
    BatchNewX509Svid = "svid.BatchNewX509SVID", AGENTS;
    /// Issue a JWT-SVID by entry.
    NewJwtSvid = "svid.NewJWTSVID", AGENTS;
    /// Read a statement of the trust-domain key.
    GetStatement = "mintmark.agent.GetStatement", ANYONE;
    /// Get a nonce for a resume.
    GetResumeNonce = "mintmark.agent.GetResumeNonce", ANYONE;
    /// Come back with the last accepted key.
    Resume = "mintmark.agent.Resume", ANYONE;
    /// Follow what the calling agent may serve.
    Sync = "mintmark.agent.Sync", AGENTS;
    /// Issue X.509-SVIDs by entry, or renew the agent's own.
    IssueX509 = "mintmark.agent.IssueX509", AGENTS;
    /// Issue a JWT-SVID by entry.
    IssueJwt = "mintmark.agent.IssueJwt", AGENTS;
    /// Read what identifies the audit log.
    GetLogInfo = "mintmark.audit.GetLogInfo", ADMINS;
    /// Follow the audit log.
    TailAudit = "mintmark.audit.Tail", ADMINS;
    /// Read the latest checkpoint.
    GetCheckpoint = "mintmark.audit.GetCheckpoint", ANYONE;
    /// Prove that a leaf is in the log.
    GetInclusionProof = "mintmark.audit.GetInclusionProof", ANYONE;
    /// Join the cluster with a server token.
    JoinCluster = "mintmark.cluster.Join", ANYONE;
    /// Make a server token.
    CreateServerToken = "mintmark.cluster.CreateServerToken", ADMINS;
    /// Show the cluster.
    GetClusterStatus = "mintmark.cluster.GetStatus", ADMINS;
    /// List authorities.
    ListAuthorities = "mintmark.cluster.ListAuthorities", ADMINS;
    /// Prepare an authority.
    PrepareAuthority = "mintmark.cluster.PrepareAuthority", LOCAL;
    /// Taint an authority.
    TaintAuthority = "mintmark.cluster.TaintAuthority", LOCAL;
    /// Revoke an authority.
    RevokeAuthority = "mintmark.cluster.RevokeAuthority", LOCAL;
    /// Explain which entries match.
    ExplainEntries = "mintmark.cluster.ExplainEntries", ADMINS;
}

impl Action {
    /// Who may, in words.
    #[must_use]
    pub fn who(self) -> &'static str {
        match self.roles() {
            [Role::Local] => "the server's private socket",
            [Role::Agent] => "attested agents with their current SVID",
            [Role::Downstream] => "downstream clusters",
            [Role::Anyone] => "anyone",
            _ => "the server's private socket, or an X.509-SVID whose entry is marked admin",
        }
    }
}

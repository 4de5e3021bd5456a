package secret

import (
	"context"
	"time"

	"github.com/sentryagent/agentidp/pkg/auditevent"
	"github.com/sentryagent/agentidp/pkg/lifecycle"
	"github.com/sentryagent/agentidp/pkg/outbox"
	"github.com/sentryagent/agentidp/pkg/registryapi"
)

// serviceName stands in the events of this service.
const serviceName = "credentials"

// events are what one change sends out: first its audit event, then the note
// that makes caches forget what they know of the agent's credentials.
func (s *Service) events(action auditevent.Action, c Credential, at time.Time, origin auditevent.Origin, metadata map[string]any) ([]outbox.Message, error) {
	metadata["credentialId"] = c.ID
	audit, err := auditevent.New(s.newID(), at, serviceName, action, &c.AgentID, origin, metadata).Message()
	if err != nil {
		return nil, err
	}
	changed, err := lifecycle.CredentialChanged{AgentID: c.AgentID, CredentialID: c.ID, OccurredAt: at}.Message(s.newID())
	if err != nil {
		return nil, err
	}
	return []outbox.Message{audit, changed}, nil
}

// AgentChanged hears what the registry says of an agent. A decommission revokes
// all its credentials in the name of whoever decommissioned it, and lets no
// later request give it one; a credential whose creation was on its way
// meanwhile is either refused or revoked with the rest. Hearing it again does
// nothing. Other changes do not concern credentials.
func (s *Service) AgentChanged(ctx context.Context, change lifecycle.AgentChanged) error {
	if change.Status != registryapi.StatusDecommissioned {
		return nil
	}
	cachesTold := false
	return s.store.Decommission(ctx, change.AgentID, s.now(), func(r *Record) ([]outbox.Message, error) {
		msgs, err := s.revoke(r, change.Origin, "agent_decommissioned")
		if err == nil && cachesTold {
			msgs = msgs[:1] // one note makes caches forget all of the agent's credentials
		}
		cachesTold = true
		return msgs, err
	})
}

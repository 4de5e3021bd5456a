package secret

import (
	"context"
	"errors"
	"time"

	"github.com/google/uuid"

	"github.com/sentryagent/agentidp/pkg/auditevent"
	"github.com/sentryagent/agentidp/pkg/config"
	"github.com/sentryagent/agentidp/pkg/outbox"
	"github.com/sentryagent/agentidp/pkg/paging"
	"github.com/sentryagent/agentidp/pkg/registryapi"
)

// Options of a Service. All but Vault are needed.
type Options struct {
	Store    Store
	Registry Registry
	Hasher   Hasher
	Vault    Vault // nil where none is configured: secrets are kept as hashes
	Clock    func() time.Time
	NewID    func() uuid.UUID // ids of events (UUIDv7) and of credentials
	// MaxActive credentials of one agent; 0 means no limit.
	MaxActive int
}

// Service is what can be done with credentials. It is safe for concurrent use.
type Service struct {
	store     Store
	registry  Registry
	hasher    Hasher
	kept      *kept
	clock     func() time.Time
	newID     func() uuid.UUID
	maxActive int
}

// NewService wires the domain.
func NewService(o Options) *Service {
	return &Service{
		store: o.Store, registry: o.Registry, hasher: o.Hasher, kept: newKept(o.Vault),
		clock: o.Clock, newID: o.NewID, maxActive: o.MaxActive,
	}
}

// errHasOne stops an insert that was only wanted if the agent has no credential.
var errHasOne = errors.New("the agent has an active credential")

// Create gives an active agent a credential. expiresAt, in the future, is
// optional. Errors: VALIDATION_ERROR, AGENT_NOT_FOUND, AGENT_NOT_ACTIVE,
// CREDENTIAL_LIMIT_EXCEEDED, SERVICE_UNAVAILABLE (also when the registry or
// Vault could not be asked).
func (s *Service) Create(ctx context.Context, agentID uuid.UUID, expiresAt *time.Time, origin auditevent.Origin) (Issued, error) {
	if expiresAt != nil {
		at, err := checkExpiry(*expiresAt, s.now())
		if err != nil {
			return Issued{}, err
		}
		expiresAt = &at
	}
	return s.issue(ctx, Credential{AgentID: agentID, ExpiresAt: expiresAt}, origin, s.withinLimit)
}

// ForOperator is what a bootstrap asks for.
type ForOperator struct {
	AgentID uuid.UUID
	// CredentialID, where it is not zero, is the id to take, so that whoever got no answer can ask again, or revoke it.
	CredentialID uuid.UUID
	OnlyIfNone   bool
}

// CreateForOperator gives the bootstrap operator a credential without expiry.
// Where its id is taken already, or with OnlyIfNone the agent has an active,
// unexpired credential, it gets nothing, and exists is true; that holds under
// any concurrency. Errors as Create.
func (s *Service) CreateForOperator(ctx context.Context, wanted ForOperator, origin auditevent.Origin) (issued Issued, exists bool, err error) {
	admit := s.withinLimit
	if wanted.OnlyIfNone {
		admit = func(st Standing) error {
			if st.Active > 0 {
				return errHasOne
			}
			return s.withinLimit(st)
		}
	}
	issued, err = s.issue(ctx, Credential{ID: wanted.CredentialID, AgentID: wanted.AgentID}, origin, admit)
	if errors.Is(err, errHasOne) || errors.Is(err, ErrIDTaken) {
		return Issued{}, true, nil
	}
	return issued, false, err
}

// issue asks first what is cheap to ask, seals the secret, and decides again
// under the lock of the agent, where nobody can have changed the answer. Of the
// credential that is wanted, the agent and the expiry are given, and the id where
// the caller chose it.
func (s *Service) issue(ctx context.Context, wanted Credential, origin auditevent.Origin, admit func(Standing) error) (Issued, error) {
	id, agentID, expiresAt := wanted.ID, wanted.AgentID, wanted.ExpiresAt
	admitActive := func(st Standing) error {
		if st.Decommissioned {
			return errAgentNotActive(registryapi.StatusDecommissioned)
		}
		return admit(st)
	}
	if err := s.agentActive(ctx, agentID); err != nil {
		return Issued{}, err
	}
	standing, err := s.store.Standing(ctx, agentID, s.now())
	if err != nil {
		return Issued{}, err
	}
	if err := admitActive(standing); err != nil {
		return Issued{}, err
	}
	if id == uuid.Nil {
		id = s.newID()
	} else if _, err := s.store.Find(ctx, agentID, id); err == nil {
		return Issued{}, ErrIDTaken // before its versions in Vault become more
	}
	plain, sealed, err := s.newSecret(ctx, Place{AgentID: agentID, CredentialID: id})
	if err != nil {
		return Issued{}, err
	}
	var created Credential
	err = s.store.Insert(ctx, agentID, s.now(), func(st Standing) (Record, []outbox.Message, error) {
		if err := admitActive(st); err != nil {
			return Record{}, nil, err
		}
		// The time is taken under the lock: the order of creation is the order of commits.
		now := s.now()
		if expiresAt != nil && !expiresAt.After(now) {
			return Record{}, nil, invalidField("expiresAt", reasonNotFuture)
		}
		created = Credential{ID: id, AgentID: agentID, Status: Active, CreatedAt: now, ExpiresAt: expiresAt}
		msgs, err := s.events(auditevent.CredentialGenerated, created, now, origin, map[string]any{"expiresAt": expiresAt})
		return Record{Credential: created, Current: &sealed}, msgs, err
	})
	if err != nil {
		s.kept.takeBack(ctx, Place{AgentID: agentID, CredentialID: id}, sealed)
		return Issued{}, err
	}
	return Issued{Credential: created, Secret: plain}, nil
}

// List gives one page of an agent's credentials. AGENT_NOT_FOUND when neither
// this service nor the registry knows the agent.
func (s *Service) List(ctx context.Context, agentID uuid.UUID, status *Status, page paging.Page) (paging.Listing[Credential], error) {
	listing, err := s.store.List(ctx, agentID, status, page)
	if err != nil || len(listing.Items) > 0 {
		return listing, err
	}
	standing, err := s.store.Standing(ctx, agentID, s.now())
	if err != nil || standing.Known {
		return listing, err
	}
	if _, err := s.registry.Agent(ctx, agentID); err != nil {
		return paging.Listing[Credential]{}, err
	}
	return listing, nil
}

// Rotate gives a credential of an active agent a new secret. The one before
// works on for the grace period (0 to MaxGrace), at most until the credential
// expires; an older one stops now. An expired credential is refused: its new
// secret would not work, and its expiry was somebody's decision. Errors:
// VALIDATION_ERROR, CREDENTIAL_NOT_FOUND, CREDENTIAL_ALREADY_REVOKED,
// CREDENTIAL_EXPIRED, AGENT_NOT_ACTIVE, SERVICE_UNAVAILABLE.
func (s *Service) Rotate(ctx context.Context, agentID, credentialID uuid.UUID, grace time.Duration, origin auditevent.Origin) (Issued, error) {
	if grace < 0 || grace > MaxGrace {
		return Issued{}, invalidField("gracePeriodSeconds", "must be between 0 and 86400")
	}
	current, err := s.store.Find(ctx, agentID, credentialID)
	if err != nil {
		return Issued{}, err
	}
	if err := current.rotatable(s.now()); err != nil {
		return Issued{}, err
	}
	if err := s.agentActive(ctx, agentID); err != nil {
		return Issued{}, err
	}
	plain, sealed, err := s.newSecret(ctx, current.place())
	if err != nil {
		return Issued{}, err
	}
	var rotated Credential
	err = s.store.Change(ctx, agentID, credentialID, func(r *Record) ([]outbox.Message, error) {
		now := s.now()
		if err := r.rotate(now, sealed, grace); err != nil {
			return nil, err
		}
		rotated = r.Credential
		return s.events(auditevent.CredentialRotated, rotated, now, origin, map[string]any{
			"gracePeriodSeconds": int64(grace / time.Second), "previousSecretExpiresAt": rotated.PreviousValidUntil,
		})
	})
	if err != nil {
		s.kept.takeBack(ctx, current.place(), sealed)
		return Issued{}, err
	}
	return Issued{Credential: rotated, Secret: plain}, nil
}

// Revoke ends a credential for good. It asks nobody, so that it works whatever
// else is down. Errors: CREDENTIAL_NOT_FOUND, CREDENTIAL_ALREADY_REVOKED,
// SERVICE_UNAVAILABLE.
func (s *Service) Revoke(ctx context.Context, agentID, credentialID uuid.UUID, origin auditevent.Origin) error {
	return s.store.Change(ctx, agentID, credentialID, func(r *Record) ([]outbox.Message, error) {
		return s.revoke(r, origin, "requested")
	})
}

func (s *Service) revoke(r *Record, origin auditevent.Origin, why string) ([]outbox.Message, error) {
	now := s.now()
	inVault := r.Current != nil && r.Current.Version > 0 || r.Previous != nil && r.Previous.Version > 0
	if err := r.revoke(now); err != nil {
		return nil, err
	}
	// With Vault on it may also have what a change that failed has left.
	if inVault || s.kept.on() {
		r.Unwanted = append(r.Unwanted, Deletion{Place: r.place(), DueAt: now})
	}
	return s.events(auditevent.CredentialRevoked, r.Credential, now, origin, map[string]any{"reason": why})
}

// agentActive asks the registry, which alone knows.
func (s *Service) agentActive(ctx context.Context, id uuid.UUID) error {
	agent, err := s.registry.Agent(ctx, id)
	if err != nil {
		return err
	}
	if agent.Status != registryapi.StatusActive {
		return errAgentNotActive(agent.Status)
	}
	return nil
}

func (s *Service) withinLimit(st Standing) error {
	if s.maxActive > 0 && st.Active >= s.maxActive {
		return errLimit(s.maxActive)
	}
	return nil
}

// newSecret makes a secret and seals it. While Vault is on and away, that is SERVICE_UNAVAILABLE.
func (s *Service) newSecret(ctx context.Context, at Place) (config.Secret, Sealed, error) {
	plain := Generate()
	sealed := Sealed{Fingerprint: FingerprintOf(plain)}
	var err error
	if s.kept.on() {
		sealed.Version, err = s.kept.write(ctx, at, plain)
	} else {
		sealed.Hash, err = s.hasher.Hash(ctx, plain)
	}
	if err != nil {
		return "", Sealed{}, err
	}
	return plain, sealed, nil
}

// now is the present as the store keeps it.
func (s *Service) now() time.Time { return s.clock().UTC().Truncate(time.Microsecond) }

const reasonNotFuture = "must be in the future"

// ExpiryFault is why a credential cannot expire then, in words that follow the
// field's name, or "". Years past 9999 (which an offset can make of one that is
// not) have no RFC 3339 form.
func ExpiryFault(at, now time.Time) string {
	at = at.UTC().Truncate(time.Microsecond)
	switch {
	case !at.After(now):
		return reasonNotFuture
	case at.Year() > 9999:
		return "must be before the year 10000 in UTC"
	default:
		return ""
	}
}

// checkExpiry gives the expiry as the store keeps it.
func checkExpiry(at, now time.Time) (time.Time, error) {
	if reason := ExpiryFault(at, now); reason != "" {
		return time.Time{}, invalidField("expiresAt", reason)
	}
	return at.UTC().Truncate(time.Microsecond), nil
}

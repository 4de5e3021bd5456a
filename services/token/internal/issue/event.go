package issue

import (
	"context"
	"time"

	"github.com/google/uuid"

	"github.com/sentryagent/agentidp/pkg/auditevent"
)

// Service is this service's name in its events.
const Service = "token"

// Journal makes events durable.
type Journal interface {
	// Publish starts, and answers a function that waits until the event is durable.
	// Its error means that it could not be stored anywhere. Both go on when ctx is
	// cancelled: whether an event is stored must not depend on the client's patience.
	Publish(ctx context.Context, event auditevent.Event) (wait func() error)
}

// Events makes events with the clock and the ids of this service.
type Events struct {
	Clock func() time.Time
	NewID func() uuid.UUID // UUIDv7
}

// New makes an event that happens now.
func (e Events) New(action auditevent.Action, about *uuid.UUID, origin auditevent.Origin, metadata map[string]any) auditevent.Event {
	return auditevent.New(e.NewID(), e.Clock(), Service, action, about, origin, metadata)
}

package export

import (
	"bytes"
	"encoding/json"
	"net/netip"
	"strconv"
	"time"

	"github.com/sentryagent/agentidp/services/audit/internal/trail"
)

// Format is the form of an export.
type Format string

// The formats. Only FormatLog can be verified: it has the log's own lines, those
// of leaves whose event is gone included. The others are for systems that collect
// the logs of many programs; they have a line for each event that is there, and
// name its leaf.
const (
	FormatLog         Format = "ndjson"
	FormatOCSF        Format = "ocsf"
	FormatCloudEvents Format = "cloudevents"
)

// Formats lists all formats.
func Formats() []string {
	return []string{string(FormatLog), string(FormatOCSF), string(FormatCloudEvents)}
}

// appendEvent adds an event in a format that is not FormatLog, newline included.
// The leaf stands in it byte for byte.
func (f Format) appendEvent(dst []byte, l line) ([]byte, error) {
	event, err := trail.Decode(l.leaf)
	if err != nil { // somebody changed what is stored; that must not go unseen
		event = trail.Event{Action: actionUnreadable, Outcome: trail.OutcomeFailure, Service: "audit"}
		copy(event.ID[:], l.hash[:])
	}
	var form any
	if f == FormatOCSF {
		form = ocsf(l, event)
	} else {
		form = cloudEvent(l, event)
	}
	buffer := bytes.NewBuffer(dst)
	encoder := json.NewEncoder(buffer)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(form); err != nil {
		return nil, err
	}
	return buffer.Bytes(), nil
}

// actionUnreadable stands for what is stored and is no event.
const actionUnreadable = "event.unreadable"

// product is what made the events, in the words of both formats.
const product = "AgentIdP"

// cloud is a CloudEvent 1.0 in structured JSON form. Leaf indexes are text, as an
// integer of CloudEvents has 32 bits.
type cloud struct {
	SpecVersion     string          `json:"specversion"`
	ID              string          `json:"id"`
	Source          string          `json:"source"`
	Type            string          `json:"type"`
	Subject         string          `json:"subject,omitempty"`
	Time            time.Time       `json:"time"`
	DataContentType string          `json:"datacontenttype"`
	LeafIndex       string          `json:"leafindex"`
	LeafHash        string          `json:"leafhash"`
	Data            json.RawMessage `json:"data"` // the whole event, in canonical form
}

func cloudEvent(l line, e trail.Event) cloud {
	made := cloud{
		SpecVersion: "1.0", ID: e.ID.String(), Source: "/agentidp/" + e.Service, Type: "agentidp." + e.Action, Time: e.Timestamp,
		DataContentType: "application/json", LeafIndex: strconv.FormatInt(l.index, 10), LeafHash: l.hash.String(), Data: l.leaf,
	}
	if e.AgentID != nil {
		made.Subject = e.AgentID.String()
	}
	return made
}

// ocsfVersion is the version of the Open Cybersecurity Schema Framework.
const ocsfVersion = "1.3.0"

// Values of OCSF.
const (
	categoryIAM         = 3
	categoryApplication = 6
	classAuthentication = 3002
	classAPIActivity    = 6003
	activityLogon       = 1
	activityCreate      = 1
	activityRead        = 2
	activityUpdate      = 3
	activityDelete      = 4
	activityOther       = 99
	severityInfo        = 1
	severityLow         = 2
	statusSuccess       = 1
	statusFailure       = 2
	protocolOAuth       = 6
	userService         = 3 // "System": OCSF 1.3 has no nearer type for an agent
)

// ocsfEvent is an event of the class Authentication or API Activity; pointers are
// nil where the class has no such attribute.
type ocsfEvent struct {
	CategoryUID  int              `json:"category_uid"`
	ClassUID     int              `json:"class_uid"`
	ClassName    string           `json:"class_name"`
	ActivityID   int              `json:"activity_id"`
	ActivityName string           `json:"activity_name"`
	TypeUID      int              `json:"type_uid"`
	Time         int64            `json:"time"` // milliseconds since 1970
	SeverityID   int              `json:"severity_id"`
	StatusID     int              `json:"status_id"`
	Status       string           `json:"status"`
	StatusDetail string           `json:"status_detail,omitempty"`
	Message      string           `json:"message"`
	Metadata     ocsfMetadata     `json:"metadata"`
	Actor        *ocsfActor       `json:"actor,omitempty"`
	User         *ocsfUser        `json:"user,omitempty"`
	Service      *ocsfService     `json:"service,omitempty"`
	AuthProtocol *int             `json:"auth_protocol_id,omitempty"`
	IsRemote     *bool            `json:"is_remote,omitempty"`
	API          *ocsfAPI         `json:"api,omitempty"`
	Resources    []ocsfResource   `json:"resources,omitempty"`
	Source       ocsfEndpoint     `json:"src_endpoint"`
	HTTPRequest  *ocsfHTTPRequest `json:"http_request,omitempty"`
	Unmapped     ocsfUnmapped     `json:"unmapped"`
}

type ocsfMetadata struct {
	Version     string      `json:"version"`
	Product     ocsfProduct `json:"product"`
	UID         string      `json:"uid"`
	EventCode   string      `json:"event_code"`
	LogName     string      `json:"log_name"`
	LogProvider string      `json:"log_provider"`
	// Original is the time to the microsecond, which Time has not.
	Original    string `json:"original_time"`
	Correlation string `json:"correlation_uid,omitempty"` // the request
	Sequence    int64  `json:"sequence"`                  // the leaf
}

type ocsfProduct struct {
	Name   string `json:"name"`
	Vendor string `json:"vendor_name"`
}

type ocsfUser struct {
	UID    string `json:"uid,omitempty"`
	Name   string `json:"name,omitempty"`
	TypeID int    `json:"type_id"`
}

type ocsfActor struct {
	User *ocsfUser `json:"user,omitempty"`
	App  string    `json:"app_name,omitempty"`
}

type ocsfService struct {
	Name string `json:"name"`
}

type ocsfAPI struct {
	Operation string      `json:"operation"`
	Service   ocsfService `json:"service"`
}

type ocsfResource struct {
	UID  string `json:"uid"`
	Type string `json:"type"`
}

type ocsfEndpoint struct {
	IP string `json:"ip,omitempty"`
	// Name stands in where there is no address: an endpoint has to have something.
	Name string `json:"name,omitempty"`
}

type ocsfHTTPRequest struct {
	UserAgent string `json:"user_agent"`
}

// ocsfUnmapped has what OCSF has no place for: the log's, and the event as it is.
type ocsfUnmapped struct {
	LeafIndex int64           `json:"leafIndex"`
	LeafHash  string          `json:"leafHash"`
	Event     json.RawMessage `json:"event"`
}

func ocsf(l line, e trail.Event) ocsfEvent {
	made := ocsfEvent{
		Time: e.Timestamp.UnixMilli(), SeverityID: severityInfo, StatusID: statusSuccess, Status: "Success", Message: e.Action,
		Metadata: ocsfMetadata{
			Version: ocsfVersion, Product: ocsfProduct{Name: product, Vendor: product}, UID: e.ID.String(), EventCode: e.Action,
			LogName: "audit", LogProvider: e.Service, Original: e.Timestamp.Format(time.RFC3339Nano), Correlation: e.RequestID, Sequence: l.index,
		},
		Source:   ocsfSource(e.IPAddress),
		Unmapped: ocsfUnmapped{LeafIndex: l.index, LeafHash: l.hash.String(), Event: l.leaf},
	}
	if e.UserAgent != "" {
		made.HTTPRequest = &ocsfHTTPRequest{UserAgent: e.UserAgent}
	}
	if e.Outcome == trail.OutcomeFailure {
		made.SeverityID, made.StatusID, made.Status = severityLow, statusFailure, "Failure"
		made.StatusDetail = reason(e.Metadata)
	}
	if e.Action == "token.issued" || e.Action == "auth.failed" {
		made.authentication(e)
	} else {
		made.apiActivity(e)
	}
	made.TypeUID = made.ClassUID*100 + made.ActivityID
	return made
}

// authentication makes it an agent that logs on to a service, or fails to.
func (o *ocsfEvent) authentication(e trail.Event) {
	protocol, remote := protocolOAuth, true
	o.CategoryUID, o.ClassUID, o.ClassName = categoryIAM, classAuthentication, "Authentication"
	o.ActivityID, o.ActivityName = activityLogon, "Logon"
	o.Service, o.AuthProtocol, o.IsRemote = &ocsfService{Name: e.Service}, &protocol, &remote
	o.User = &ocsfUser{Name: "unknown", TypeID: userService}
	if e.AgentID != nil {
		o.User = &ocsfUser{UID: e.AgentID.String(), TypeID: userService}
	}
	if e.ActorID != nil {
		o.Actor = &ocsfActor{User: &ocsfUser{UID: e.ActorID.String(), TypeID: userService}}
	}
}

// apiActivity makes it an actor that does something to an agent through an API.
func (o *ocsfEvent) apiActivity(e trail.Event) {
	o.CategoryUID, o.ClassUID, o.ClassName = categoryApplication, classAPIActivity, "API Activity"
	o.ActivityID, o.ActivityName = activityOf(e.Action)
	o.API = &ocsfAPI{Operation: e.Action, Service: ocsfService{Name: e.Service}}
	o.Actor = &ocsfActor{App: e.Service} // of its own accord
	if e.ActorID != nil {
		o.Actor = &ocsfActor{User: &ocsfUser{UID: e.ActorID.String(), TypeID: userService}}
	}
	if e.AgentID != nil {
		o.Resources = []ocsfResource{{UID: e.AgentID.String(), Type: "agent"}}
	}
}

func activityOf(action string) (id int, name string) {
	switch action {
	case "agent.created", "credential.generated":
		return activityCreate, "Create"
	case "token.introspected":
		return activityRead, "Read"
	case "agent.updated", "agent.suspended", "agent.reactivated", "agent.keys_updated", "credential.rotated":
		return activityUpdate, "Update"
	case "agent.decommissioned", "credential.revoked", "token.revoked":
		return activityDelete, "Delete"
	}
	return activityOther, action // one of a newer publisher
}

func ocsfSource(address string) ocsfEndpoint {
	if _, err := netip.ParseAddr(address); err != nil {
		return ocsfEndpoint{Name: "unknown"}
	}
	return ocsfEndpoint{IP: address}
}

// reason is why something failed, where the event says so.
func reason(metadata json.RawMessage) string {
	var known struct {
		Reason string `json:"reason"`
	}
	_ = json.Unmarshal(metadata, &known) // of another type: then it says nothing we could read
	return known.Reason
}

{{/* Parts of network policies. */}}

{{/* Peers: pods of the release. A list: the context, components. */}}
{{- define "studovna.peers" -}}
{{- $root := first . -}}
{{- range rest . }}
- podSelector: {matchLabels: {{ include "studovna.selector" (list $root .) | fromYaml | toJson }}}
{{- end }}
{{- end }}

{{/* The labels of people's servers: KubeSpawner's, and the release's name. */}}
{{- define "studovna.serverLabels" -}}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/component: singleuser-server
{{- end }}

{{/* Peer: people's servers. */}}
{{- define "studovna.serverPeer" -}}
- podSelector: {matchLabels: {{ include "studovna.serverLabels" . | fromYaml | toJson }}}
  {{- if include "studovna.personNamespaces" . }}
  namespaceSelector: {}
  {{- end }}
{{- end }}

{{/* Egress: names. Any address of the cluster: a node-local cache has a link-local one. */}}
{{- define "studovna.dns" -}}
- ports:
    - {port: 53, protocol: UDP}
    - {port: 53, protocol: TCP}
{{- end }}

{{/*
Egress of the hub and Binder: the API server, which is at addresses that no selector names, and
https in general (an identity provider or a registry in one's own network); never link-local ones.
*/}}
{{- define "studovna.control" -}}
- ports:
    {{- range .Values.networkPolicy.apiServerPorts }}
    - {port: {{ . }}, protocol: TCP}
    {{- end }}
  to: {{- include "studovna.anywhere" (list . (list "169.254.0.0/16" "168.63.129.16/32") (list "fe80::/10")) | nindent 4 }}
{{- end }}

{{/* Peers: every address but these. A list: the context, IPv4 ranges, IPv6 ranges. */}}
{{- define "studovna.anywhere" -}}
- ipBlock: {cidr: 0.0.0.0/0, except: {{ toJson (index . 1) }}}
- ipBlock: {cidr: "::/0", except: {{ toJson (index . 2) }}}
{{- end }}

{{/* Egress: the public internet. */}}
{{- define "studovna.internet" -}}
{{- $four := list -}}
{{- $six := list -}}
{{- range .Values.networkPolicy.blockedRanges -}}
{{- if contains ":" . }}{{ $six = append $six . }}{{ else }}{{ $four = append $four . }}{{ end -}}
{{- end -}}
- to: {{- include "studovna.anywhere" (list . $four $six) | nindent 4 }}
{{- end }}

{{/* The spec of the policy of people's servers, in whichever namespace they are. */}}
{{- define "studovna.serverPolicy" -}}
podSelector: {matchLabels: {{ include "studovna.serverLabels" . | fromYaml | toJson }}}
policyTypes: [Ingress, Egress]
ingress:
  {{- /* Jupyter's server, and the sign-in before an application: what that one listens on itself is
  for nobody outside. */}}
  - ports: [{port: 8888, protocol: TCP}, {port: 18888, protocol: TCP}]
    from: {{- include "studovna.homePeers" (list . "hub" "proxy") | nindent 6 }}
egress:
  {{- include "studovna.dns" . | nindent 2 }}
  {{- include "studovna.internet" . | nindent 2 }}
  - ports: [{port: 8081, protocol: TCP}]
    to: {{- include "studovna.homePeers" (list . "hub") | nindent 6 }}
  - ports: [{port: 8000, protocol: TCP}]
    to: {{- include "studovna.homePeers" (list . "proxy") | nindent 6 }}
  {{- if include "studovna.binder" . }}
  - ports: [{port: 8585, protocol: TCP}]
    to: {{- include "studovna.homePeers" (list . "binder") | nindent 6 }}
  {{- end }}
  {{- with .Values.networkPolicy.servers.egress }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}

{{/* Peers: pods of the release, seen from a server. A list: the context, components. */}}
{{- define "studovna.homePeers" -}}
{{- $root := first . -}}
{{- range rest . }}
- podSelector: {matchLabels: {{ include "studovna.selector" (list $root .) | fromYaml | toJson }}}
  {{- if include "studovna.personNamespaces" $root }}
  namespaceSelector: {{ semverCompare ">=1.22-0" $root.Capabilities.KubeVersion.Version | ternary (printf "{matchLabels: {kubernetes.io/metadata.name: %s}}" $root.Release.Namespace) "{}" }}
  {{- end }}
{{- end }}
{{- end }}

{{/* What the spawner makes in each person's namespace, beside its quota. */}}
{{- define "studovna.personNetwork" -}}
apiVersion: v1
kind: List
items:
  {{- if .Values.networkPolicy.enabled }}
  - apiVersion: networking.k8s.io/v1
    kind: NetworkPolicy
    metadata:
      name: {{ include "studovna.fullname" . }}-default-deny
    spec:
      podSelector: {}
      policyTypes: [Ingress, Egress]
  - apiVersion: networking.k8s.io/v1
    kind: NetworkPolicy
    metadata:
      name: {{ include "studovna.fullname" . }}-servers
    spec: {{- include "studovna.serverPolicy" . | nindent 6 }}
  {{- if include "studovna.jobs" . }}
  # Servers that may run jobs ask the API server for them; their jobs reach the internet alone.
  - apiVersion: networking.k8s.io/v1
    kind: NetworkPolicy
    metadata:
      name: {{ include "studovna.fullname" . }}-jobs-api
    spec:
      podSelector: {matchLabels: {studovna.jobs: "true"}}
      policyTypes: [Egress]
      egress:
        - ports:
            {{- range .Values.networkPolicy.apiServerPorts }}
            - {port: {{ . }}, protocol: TCP}
            {{- end }}
          to:
            {{- range .Values.rbac.jobs.apiServer }}
            - ipBlock: {cidr: {{ . | quote }}}
            {{- end }}
  - apiVersion: networking.k8s.io/v1
    kind: NetworkPolicy
    metadata:
      name: {{ include "studovna.fullname" . }}-jobs
    spec:
      podSelector: {matchLabels: {studovna.job: "true"}}
      policyTypes: [Ingress, Egress]
      egress:
        {{- include "studovna.dns" . | nindent 8 }}
        {{- include "studovna.internet" . | nindent 8 }}
  {{- end }}
  {{- else }}
  []
  {{- end }}
{{- end }}

{{/* The port of the database: the URL's, else PostgreSQL's. */}}
{{- define "studovna.databasePort" -}}
{{- regexFind ":[0-9]+$" ((urlParse .Values.database.url).host | default "") | trimPrefix ":" | default "5432" -}}
{{- end }}

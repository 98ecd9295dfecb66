// Twenty pods on each of two nodes, through containerd (support/cluster-scenario.ts).

import { suite } from 'uvu';
import { testNeeding } from '../support/needs.ts';
import { runCluster } from './support/cluster-scenario.ts';
import { missingTool } from './support/containerd.ts';

const test = suite('cni/cluster slow');
const NAME = 'pods of two nodes, by containerd: all reach whom they may, from the first packet on';
const PODS_EACH = 20;
const scenario = (): Promise<void> => runCluster(PODS_EACH);

testNeeding('tun', test, NAME, scenario, missingTool(['busybox-static']));

test.run();
